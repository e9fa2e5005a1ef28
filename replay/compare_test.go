package replay

import (
	"fmt"
	"strings"
	"testing"

	"rtm/diameter"
)

// cca is a CCA in words: the result, then services "10 2001 octets=5 validity=60
// final=0" with semicolons between. A group of - is the message itself.
func cca(words string) *Verdict {
	parts := strings.Split(words, ";")
	var e diameter.Encoder
	e.Reset(nil)
	e.Request(diameter.CreditControl, diameter.ApplicationCreditControl, 0, 1, 2)
	var result uint32
	fmt.Sscan(parts[0], &result)
	if result > 9999 {
		e.Open(diameter.ExperimentalResult)
		e.Uint32(diameter.VendorID, 10415)
		e.Uint32(diameter.ExperimentalResultCode, result/10)
		e.Close()
	} else if result > 0 {
		e.Uint32(diameter.ResultCode, result)
	}
	for _, part := range parts[1:] {
		fields := strings.Fields(part)
		if fields[0] != "-" {
			e.Open(diameter.MultipleServicesCreditControl)
			var group, code uint32
			fmt.Sscan(fields[0], &group)
			if group > 0 {
				e.Uint32(diameter.RatingGroup, group)
			}
			if fmt.Sscan(fields[1], &code); code > 0 {
				e.Uint32(diameter.ResultCode, code)
			}
		}
		for _, f := range fields[2:] {
			key, value, _ := strings.Cut(f, "=")
			var n uint64
			fmt.Sscan(value, &n)
			switch key {
			case "octets", "in", "time", "money":
				e.Open(diameter.GrantedServiceUnit)
				switch key {
				case "octets":
					e.Uint64(diameter.CCTotalOctets, n)
					e.Uint32(diameter.CCTime, 0)
				case "in":
					e.Uint64(diameter.CCInputOctets, n)
				case "time":
					e.Uint32(diameter.CCTime, uint32(n))
				case "money":
					e.Open(diameter.CCMoney)
					e.Open(diameter.UnitValue)
					e.Uint64(diameter.ValueDigits, n)
					e.Uint32(diameter.Exponent, 0xFFFFFFFE)
					e.Close()
					e.Close()
				}
				e.Close()
			case "validity":
				e.Uint32(diameter.ValidityTime, uint32(n))
			case "final":
				e.Open(diameter.FinalUnitIndication)
				e.Uint32(diameter.FinalUnitAction, uint32(n))
				e.Close()
			case "service":
				e.Uint32(diameter.ServiceIdentifier, uint32(n))
			}
		}
		if fields[0] != "-" {
			e.Close()
		}
	}
	v := Judge(e.Bytes()[diameter.HeaderLength:])
	return &v
}

func TestComparing(t *testing.T) {
	for _, c := range []struct {
		captured, replayed string
		want               []string // ! is a result code
	}{
		{"2001", "2001", nil},
		{"2001", "5030", []string{"!Result-Code 2001 SUCCESS → 5030 USER_UNKNOWN"}},
		{"0", "2001", []string{"!Result-Code none → 2001 SUCCESS"}},
		{"50301", "5030", []string{"!Result-Code 5030 of vendor 10415 → 5030 USER_UNKNOWN"}},
		{"2001; 10 2001 octets=5", "4010", []string{"!Result-Code 2001 SUCCESS → 4010 END_USER_SERVICE_DENIED"}},
		{"2002; 10 2001 octets=5", "2001; 10 2001 octets=6", []string{"!Result-Code 2002 LIMITED_SUCCESS → 2001 SUCCESS", "rating group 10: CC-Total-Octets 5 → 6"}},
		{"2001; 10 2001 octets=5 validity=60; 20 2001 time=9", "2001; 20 2001 time=9; 10 2001 octets=5 validity=60", nil}, // in another order
		{"2001; 10 2001 octets=5 validity=60", "2001; 10 4012", []string{"!rating group 10: Result-Code 2001 SUCCESS → 4012 CREDIT_LIMIT_REACHED"}},
		{"2001; 10 0", "2001; 10 2001", nil}, // without a code of its own the message's counts
		{"2001; 10 2001", "2001", []string{"rating group 10: Multiple-Services-Credit-Control there → none"}},
		{"2001", "2001; 10 5031", []string{"!rating group 10: Result-Code 2001 SUCCESS → 5031 RATING_FAILED"}},
		{"2001", "2001; 10 2001", []string{"rating group 10: Multiple-Services-Credit-Control none → there"}},
		{"2001; 10 2001 octets=5 in=3", "2001; 10 2001 octets=5", []string{"rating group 10: CC-Input-Octets 3 → none"}},
		{"2001; 10 2001 in=3", "2001; 10 2001 octets=5", []string{"rating group 10: CC-Input-Octets 3 → none", "rating group 10: CC-Total-Octets none → 5"}},
		{"2001; 10 2001 octets=0", "2001; 10 2001", []string{"rating group 10: CC-Time 0 → none", "rating group 10: CC-Total-Octets 0 → none"}},
		{"2001; 10 2001 validity=60 final=0", "2001; 10 2001 validity=600", []string{"rating group 10: Validity-Time 60 → 600", "rating group 10: Final-Unit-Action TERMINATE → none"}},
		{"2001; 10 2001 final=1", "2001; 10 2001 final=7", []string{"rating group 10: Final-Unit-Action REDIRECT → unknown"}},
		{"2001; 10 2001 service=1 octets=5; 10 2001 service=2 octets=6", "2001; 10 2001 service=2 octets=6; 10 2001 service=1 octets=7",
			[]string{"rating group 10 service 1: CC-Total-Octets 5 → 7"}},
		{"2001; 0 2001 octets=5", "2001; 0 2001 octets=6", []string{"CC-Total-Octets 5 → 6"}}, // Open5GS names no rating group
		{"2001; - - time=60", "2001; - - time=30", []string{"CC-Time 60 → 30"}},               // units of the message
		{"2001; - - money=250", "2001; - - money=200", []string{"CC-Money in 10^-2 250 → 200"}},
	} {
		var got []string
		for _, d := range Compare(cca(c.captured), cca(c.replayed)) {
			line := d.What + " " + d.Captured + " → " + d.Replayed
			if d.Where != "" {
				line = d.Where + ": " + line
			}
			if d.Result {
				line = "!" + line
			}
			got = append(got, line)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s / %s:\n got %q\nwant %q", c.captured, c.replayed, got, c.want)
		}
	}
}

// What is counted adds up, and messages that differ alike are one group.
func TestReport(t *testing.T) {
	r := newReport()
	for i, c := range [][2]string{
		{"2001; 10 2001 octets=5", "2001; 10 2001 octets=5"},
		{"2001; 10 2001 octets=5; 20 2001 octets=5", "2001; 10 2001 octets=6; 20 2001 octets=6"},
		{"2001; 30 2001 octets=5", "2001; 30 2001 octets=6"},
		{"2001", "5030"}, {"2001", "5030"}, {"", "2001"}, {"2001", ""},
	} {
		m := &Message{Frame: i + 1}
		if c[0] != "" {
			m.Captured = cca(c[0])
		}
		if c[1] != "" {
			m.Replayed = cca(c[1])
		}
		r.add(m)
	}
	r.finish()
	if r.Equal != 1 || r.Results != 2 || r.Grants != 2 || r.Unanswered != 1 || r.Unpaired != 1 {
		t.Errorf("%+v", r)
	}
	if len(r.Differences) != 2 || *r.Differences[0] != (Group{r.Differences[0].Difference, "result", 2, 4}) || *r.Differences[1] != (Group{r.Differences[1].Difference, "grant", 2, 2}) {
		t.Errorf("%+v", r.Differences)
	}
	if r.Codes["2001 SUCCESS"]["5030 USER_UNKNOWN"] != 2 || r.Codes["none"]["2001 SUCCESS"] != 1 || r.Codes["2001 SUCCESS"]["none"] != 1 {
		t.Errorf("%v", r.Codes)
	}
}

// A report does not grow with the kinds of differences.
func TestReportIsBounded(t *testing.T) {
	r := newReport()
	for i := range 2 * groupsMax {
		r.add(&Message{Captured: cca("2001; 10 2001 octets=5"), Replayed: cca(fmt.Sprintf("2001; 10 2001 octets=%d", 10+i))})
	}
	r.finish()
	if len(r.Differences) != groupsMax || r.More != groupsMax || r.Grants != 2*groupsMax {
		t.Errorf("%d groups, %d more, %d messages", len(r.Differences), r.More, r.Grants)
	}
}
