package creditcontrol

import (
	"bytes"

	"rtm/charging"
	"rtm/diameter"
	"rtm/rating"
)

// particulars reads what rating and records need of a Service-Information
// (TS 32.299 §7.2.192).
func particulars(b []byte, p *charging.Particulars) {
	for len(b) > 0 {
		var a diameter.AVP
		a, b, _ = diameter.Next(b)
		switch a.Attr {
		case diameter.PSInformation:
			packetSwitched(a.Data, p)
		case diameter.IMSInformation:
			multimedia(a.Data, p)
		case diameter.SMSInformation:
			shortMessage(a.Data, p)
		case diameter.MMSInformation:
			multimediaMessage(a.Data, p)
		}
	}
}

func packetSwitched(b []byte, p *charging.Particulars) {
	for len(b) > 0 {
		var a diameter.AVP
		a, b, _ = diameter.Next(b)
		switch a.Attr {
		case diameter.CalledStationID:
			p.APN = a.Data
		case diameter.TGPPChargingID:
			p.ChargingID = a.Data
		case diameter.PDPAddress:
			p.Address = address(&a)
		case diameter.SGSNAddress:
			p.SGSN = address(&a)
		case diameter.GGSNAddress:
			p.GGSN = address(&a)
		case diameter.TGPPSGSNMCCMNC:
			p.PLMN = a.Data
		case diameter.TGPPUserLocationInfo:
			p.Location = a.Data
		case diameter.TGPPMSTimeZone:
			p.Zone = a.Data
		case diameter.TGPPRATType:
			if len(a.Data) == 1 {
				p.RAT = a.Data[0]
			}
		case diameter.UserEquipmentInfo:
			if v, ok := diameter.Find(a.Data, diameter.UserEquipmentInfoValue); ok {
				p.Equipment = v.Data
			}
		}
	}
}

// address is an Address without its family.
func address(a *diameter.AVP) []byte {
	if len(a.Data) < 2 {
		return nil
	}
	return a.Data[2:]
}

func multimedia(b []byte, p *charging.Particulars) {
	for len(b) > 0 {
		var a diameter.AVP
		a, b, _ = diameter.Next(b)
		switch a.Attr {
		case diameter.CallingPartyAddress:
			if p.Calling == nil {
				p.Calling = a.Data
			}
		case diameter.CalledPartyAddress:
			p.Called = a.Data
		case diameter.RoleOfNode:
			if v, err := a.Uint32(); err == nil && v < 255 {
				p.Role = uint8(v) + 1
			}
		case diameter.SDPMediaComponent:
			p.Media |= mediaOf(a.Data)
		}
	}
}

// mediaOf reads an SDP-Media-Component: its name is the m= line of SDP without the
// letter, such as "audio 49170 RTP/AVP 0" (TS 32.299 §7.2.187).
func mediaOf(b []byte) uint8 {
	name, _ := diameter.Find(b, diameter.SDPMediaName)
	text := bytes.TrimPrefix(name.Data, []byte("m="))
	switch {
	case bytes.HasPrefix(text, []byte("audio")):
		return rating.Audio
	case bytes.HasPrefix(text, []byte("video")):
		return rating.Video
	}
	return 0
}

func multimediaMessage(b []byte, p *charging.Particulars) {
	for len(b) > 0 {
		var a diameter.AVP
		a, b, _ = diameter.Next(b)
		switch a.Attr {
		case diameter.OriginatorAddress:
			if v, ok := diameter.Find(a.Data, diameter.AddressData); ok {
				p.Calling = v.Data
			}
		case diameter.RecipientAddress:
			p.Recipients++
			if v, ok := diameter.Find(a.Data, diameter.AddressData); ok && p.Called == nil {
				p.Called = v.Data
			}
		case diameter.MessageSize:
			if v, err := a.Uint32(); err == nil {
				p.Size = v
			}
		}
	}
}

func shortMessage(b []byte, p *charging.Particulars) {
	for len(b) > 0 {
		var a diameter.AVP
		a, b, _ = diameter.Next(b)
		switch a.Attr {
		case diameter.OriginatorReceivedAddress:
			if v, ok := diameter.Find(a.Data, diameter.AddressData); ok {
				p.Calling = v.Data
			}
		case diameter.RecipientInfo:
			p.Recipients++
			if to, ok := diameter.Find(a.Data, diameter.RecipientAddress); ok && p.Called == nil {
				if v, ok := diameter.Find(to.Data, diameter.AddressData); ok {
					p.Called = v.Data
				}
			}
		case diameter.NumberOfMessagesSent: // segments: each is one to be paid for
			if v, err := a.Uint32(); err == nil {
				p.Segments = v
			}
		case diameter.SMMessageType:
			if v, err := a.Uint32(); err == nil && v < 255 {
				p.Role = uint8(v) + 1
			}
		}
	}
}
