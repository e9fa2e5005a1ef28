package diameter

import "fmt"

// A Result is the value of a Result-Code (RFC 6733 §7.1, RFC 8506 §9).
type Result uint32

// The result codes that are sent or understood here.
const (
	Success                Result = 2001
	LimitedSuccess         Result = 2002
	CommandUnsupported     Result = 3001
	UnableToDeliver        Result = 3002
	RealmNotServed         Result = 3003
	TooBusy                Result = 3004
	LoopDetected           Result = 3005
	ApplicationUnsupported Result = 3007
	InvalidHdrBits         Result = 3008
	InvalidAVPBits         Result = 3009
	UnknownPeer            Result = 3010
	ElectionLost           Result = 4003
	EndUserServiceDenied   Result = 4010
	CreditLimitReached     Result = 4012
	AVPUnsupported         Result = 5001
	UnknownSessionID       Result = 5002
	InvalidAVPValue        Result = 5004
	MissingAVP             Result = 5005
	ResourcesExceeded      Result = 5006
	ContradictingAVPs      Result = 5007
	AVPNotAllowed          Result = 5008
	AVPOccursTooManyTimes  Result = 5009
	NoCommonApplication    Result = 5010
	UnsupportedVersion     Result = 5011
	UnableToComply         Result = 5012
	InvalidAVPLength       Result = 5014
	InvalidMessageLength   Result = 5015
	UserUnknown            Result = 5030
	RatingFailed           Result = 5031
)

var resultNames = map[Result]string{
	Success: "SUCCESS", LimitedSuccess: "LIMITED_SUCCESS", CommandUnsupported: "COMMAND_UNSUPPORTED",
	UnableToDeliver: "UNABLE_TO_DELIVER", RealmNotServed: "REALM_NOT_SERVED", TooBusy: "TOO_BUSY",
	LoopDetected: "LOOP_DETECTED", ApplicationUnsupported: "APPLICATION_UNSUPPORTED",
	InvalidHdrBits: "INVALID_HDR_BITS", InvalidAVPBits: "INVALID_AVP_BITS", UnknownPeer: "UNKNOWN_PEER",
	ElectionLost: "ELECTION_LOST", EndUserServiceDenied: "END_USER_SERVICE_DENIED",
	CreditLimitReached: "CREDIT_LIMIT_REACHED", AVPUnsupported: "AVP_UNSUPPORTED",
	UnknownSessionID: "UNKNOWN_SESSION_ID", InvalidAVPValue: "INVALID_AVP_VALUE", MissingAVP: "MISSING_AVP",
	ResourcesExceeded: "RESOURCES_EXCEEDED", ContradictingAVPs: "CONTRADICTING_AVPS",
	AVPNotAllowed: "AVP_NOT_ALLOWED", AVPOccursTooManyTimes: "AVP_OCCURS_TOO_MANY_TIMES",
	NoCommonApplication: "NO_COMMON_APPLICATION", UnsupportedVersion: "UNSUPPORTED_VERSION",
	UnableToComply: "UNABLE_TO_COMPLY", InvalidAVPLength: "INVALID_AVP_LENGTH",
	InvalidMessageLength: "INVALID_MESSAGE_LENGTH", UserUnknown: "USER_UNKNOWN", RatingFailed: "RATING_FAILED",
}

// String gives the code and its name: "5002 UNKNOWN_SESSION_ID".
func (r Result) String() string {
	if n, ok := resultNames[r]; ok {
		return fmt.Sprintf("%d %s", uint32(r), n)
	}
	return fmt.Sprint(uint32(r))
}

// Protocol reports whether r is a protocol error: the E bit must be set.
func (r Result) Protocol() bool { return r >= 3000 && r < 4000 }
