package tenant

import "testing"

// Called parties and APNs as clients write them, and which are for emergencies.
func TestWhatIsAnEmergency(t *testing.T) {
	e := &EmergencyDoc{RatingGroups: []uint32{911}, ServiceIDs: []uint32{7}, APNs: []string{"sos"}, Called: []string{"112", "urn:service:sos"}}
	if err := e.complete(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		apn, called string
		want        bool
	}{
		{"sos", "", true}, {"SOS", "", true}, {"sos2", "", false}, {"", "", false},
		{"", "112", true}, {"", "tel:112", true}, {"", "TEL:112;phone-context=+49", true}, {"", "sip:112@ims.example;user=phone", true}, {"", "sips:112@ims.example", true},
		{"", "1120", false}, {"", "tel:+49112", false}, {"", "sip:alice@112", false}, {"", "sip:", false}, {"", "mailto:112", false},
		{"", "urn:service:sos", true}, {"", "urn:service:sos.fire", true}, {"", "URN:service:SOS.police", true}, {"", "urn:service:sos2", false}, {"", "urn:service:so", false},
	} {
		if got := e.Reaches([]byte(c.apn), []byte(c.called)); got != c.want {
			t.Errorf("APN %q, called %q: %v", c.apn, c.called, got)
		}
	}
	if !e.Service(911, true, 0, false) || e.Service(911, false, 0, false) || !e.Service(0, true, 7, true) || e.Service(0, true, 7, false) || e.Service(1, true, 1, true) {
		t.Error("a rating group or service is taken for another one, or one that is not there for one that is")
	}
	if (&EmergencyDoc{}).Reaches(nil, nil) || (&EmergencyDoc{}).Service(0, true, 0, true) {
		t.Error("who names nothing means nothing")
	}
	for _, wrong := range []EmergencyDoc{{APNs: []string{"-"}}, {Called: []string{"1"}}, {Called: []string{"tel:112"}}, {Called: []string{"sip:a@b"}}, {RatingGroups: make([]uint32, listMax+1)}} {
		if err := wrong.complete(); err == nil {
			t.Errorf("%.60v is taken", wrong)
		}
	}
}
