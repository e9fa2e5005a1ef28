package creditcontrol

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"rtm/charging"
	"rtm/diameter"
	"rtm/rating"
)

// alike compares Particulars by what they say.
var alike = cmpopts.IgnoreUnexported(charging.Particulars{})

// What real clients say of a session: data (PS-Information), a call
// (IMS-Information), short messages (SMS-Information).
func TestParticularsOfClients(t *testing.T) {
	sms := func(to string) charging.Particulars {
		return charging.Particulars{Calling: []byte("4915790000013"), Called: []byte(to), Role: 1, Recipients: 1, Segments: 1}
	}
	call := charging.Particulars{Calling: []byte("tel:+4915790000012"), Called: []byte("tel:+4930123456"), Role: 1}
	for id, want := range map[string]charging.Particulars{
		"ccr-i-open5gs": {
			APN: []byte("internet"), ChargingID: []byte{0, 0, 0, 47}, Address: []byte{10, 45, 0, 2}, SGSN: []byte{127, 0, 0, 3}, GGSN: []byte{127, 0, 0, 4},
			PLMN: []byte("99970"), Location: []byte("\x82\x99\xf9\x07\x00\x01\x99\xf9\x07\x01\x23\x45\x01"), Equipment: []byte("3534900698733190"),
			Zone: []byte{0x23, 0}, RAT: 6,
		},
		"ccr-i-pgw-empty-rsu-3rg": {
			APN: []byte("web.mvno.example"), ChargingID: []byte{0x5a, 0, 0x11, 7}, Address: []byte{100, 64, 3, 17}, SGSN: []byte{198, 51, 100, 21},
			GGSN: []byte{198, 51, 100, 7}, PLMN: []byte("26202"), Location: []byte("\x82\x62\xf2\x20\x1a\x2b\x62\xf2\x20\x01\x9a\x2b\x03"),
			Equipment: []byte("8674510312345601"), Zone: []byte{0x80, 1}, RAT: 6,
		},
		"ccr-u-magma-1of4rg": {
			APN: []byte("internet"), Address: []byte{172, 17, 241, 10}, SGSN: []byte{10, 20, 10, 101}, GGSN: []byte{10, 20, 10, 101}, PLMN: []byte("00101"),
			Location: []byte("\x82\x00\xf1\x10\x00\x01\x00\xf1\x10\x00\x00\x01\x01"), Equipment: []byte("3520990017614821"), RAT: 6,
		},
		"ccr-i-voice-scur": call, "ccr-t-voice-scur": call,
		"ccr-e-sms-iec": sms("4915790000098"), "ccr-i-sms-ecur": sms("4915790000099"), "ccr-t-sms-ecur": sms("4915790000099"),
		"ccr-i-voice-root-units": {}, // it has no Service-Information
	} {
		_, r, err := decode(t, message(t, id))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, r.Particulars, alike); d != "" {
			t.Errorf("%s (-want +got):\n%s", id, d)
		}
	}
}

// An address of a message: Address-Type MSISDN, Address-Data.
func party(e *diameter.Encoder, attr diameter.Attr, number string) {
	e.Open(attr)
	e.Uint32(diameter.AddressType, 1)
	e.String(diameter.AddressData, number)
	e.Close()
}

// What the vectors do not have of a Service-Information (TS 32.299 §7.2.192): several
// recipients, parts of a long message, what a call carries, the size of a message, IPv6.
func TestParticulars(t *testing.T) {
	media := func(e *diameter.Encoder, names ...string) {
		for _, name := range names {
			e.Open(diameter.SDPMediaComponent)
			e.String(diameter.SDPMediaName, name)
			e.String(diameter.SDPMediaDescription, "a=sendrecv")
			e.Close()
		}
	}
	long := netip.MustParseAddr("2001:db8::17")
	for name, c := range map[string]struct {
		in   diameter.Attr // the group of Service-Information
		say  func(e *diameter.Encoder)
		want charging.Particulars
	}{
		"a short message to three, in two parts": {
			in: diameter.SMSInformation,
			say: func(e *diameter.Encoder) {
				e.Uint32(diameter.SMMessageType, 2) // SM Service Request
				for _, number := range []string{"491701", "491702", "491703"} {
					e.Open(diameter.RecipientInfo)
					party(e, diameter.RecipientAddress, number)
					e.Close()
				}
				party(e, diameter.OriginatorReceivedAddress, "491700")
				e.Uint32(diameter.NumberOfMessagesSent, 2)
			},
			want: charging.Particulars{Calling: []byte("491700"), Called: []byte("491701"), Role: 3, Recipients: 3, Segments: 2},
		},
		"a short message whose first recipient has no number": {
			in: diameter.SMSInformation,
			say: func(e *diameter.Encoder) {
				e.Open(diameter.RecipientInfo)
				e.Close()
				e.Open(diameter.RecipientInfo)
				party(e, diameter.RecipientAddress, "491702")
				e.Close()
			},
			want: charging.Particulars{Called: []byte("491702"), Recipients: 2},
		},
		"a multimedia message to two": {
			in: diameter.MMSInformation,
			say: func(e *diameter.Encoder) {
				party(e, diameter.OriginatorAddress, "491700")
				party(e, diameter.RecipientAddress, "491701")
				party(e, diameter.RecipientAddress, "491702")
				e.Uint32(diameter.MessageSize, 307200)
			},
			want: charging.Particulars{Calling: []byte("491700"), Called: []byte("491701"), Recipients: 2, Size: 307200},
		},
		"a call": {
			in: diameter.IMSInformation,
			say: func(e *diameter.Encoder) {
				e.Uint32(diameter.RoleOfNode, 1) // TERMINATING_ROLE
				e.String(diameter.CallingPartyAddress, "sip:a@ims.example")
				e.String(diameter.CallingPartyAddress, "tel:+491700") // the same one, by another name
				e.String(diameter.CalledPartyAddress, "tel:+491701")
				media(e, "audio 49170 RTP/AVP 0")
			},
			want: charging.Particulars{Calling: []byte("sip:a@ims.example"), Called: []byte("tel:+491701"), Role: 2, Media: rating.Audio},
		},
		"a video call": {
			in:   diameter.IMSInformation,
			say:  func(e *diameter.Encoder) { media(e, "m=audio 49170 RTP/AVP 0", "m=video 51372 RTP/AVP 31") },
			want: charging.Particulars{Media: rating.Audio | rating.Video},
		},
		"a call that carries something else": {
			in:  diameter.IMSInformation,
			say: func(e *diameter.Encoder) { media(e, "message 7394 TCP/MSRP *", "") },
		},
		"data over IPv6": {
			in: diameter.PSInformation,
			say: func(e *diameter.Encoder) {
				e.Octets(diameter.TGPPChargingID, []byte{1, 2, 3, 4})
				e.Address(diameter.PDPAddress, long)
				e.Address(diameter.SGSNAddress, netip.MustParseAddr("192.0.2.1"))
				e.Address(diameter.GGSNAddress, long)
				e.String(diameter.CalledStationID, "ims")
				e.String(diameter.TGPPSGSNMCCMNC, "26201")
				e.Octets(diameter.TGPPMSTimeZone, []byte{0x40, 1})
				e.Octets(diameter.TGPPUserLocationInfo, []byte{1, 0x62, 0xf2, 0x10, 0, 1, 0, 2})
				e.Octets(diameter.TGPPRATType, []byte{1})
				e.Open(diameter.UserEquipmentInfo)
				e.Uint32(diameter.UserEquipmentInfoType, 0)
				e.Octets(diameter.UserEquipmentInfoValue, []byte("3520990017614821"))
				e.Close()
			},
			want: charging.Particulars{
				APN: []byte("ims"), ChargingID: []byte{1, 2, 3, 4}, Address: long.AsSlice(), SGSN: []byte{192, 0, 2, 1}, GGSN: long.AsSlice(), PLMN: []byte("26201"),
				Zone: []byte{0x40, 1}, Location: []byte{1, 0x62, 0xf2, 0x10, 0, 1, 0, 2}, RAT: 1, Equipment: []byte("3520990017614821"),
			},
		},
	} {
		_, r, err := decode(t, update(func(e *diameter.Encoder) {
			e.Open(diameter.ServiceInformation)
			e.Open(c.in)
			c.say(e)
			e.Close()
			e.Close()
		}))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(c.want, r.Particulars, alike); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}
