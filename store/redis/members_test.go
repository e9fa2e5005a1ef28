package redis

import (
	"slices"
	"testing"
)

// A master finds its replicas wherever its own line stands: in RESP3 the first
// one has the format of the text in front of it.
func TestReplicasOfAMaster(t *testing.T) {
	const (
		self = "aaaa 127.0.0.1:7001@17001 myself,master - 0 1795653352000 1 connected 0-5460\n"
		peer = "bbbb 127.0.0.1:7002@17002 master - 0 1795653352000 2 connected 5461-16383\n"
		one  = "cccc 127.0.0.1:7003@17003 slave aaaa 0 1795653352000 1 connected\n"
		two  = "dddd 127.0.0.1:7004@17004,host slave,fail aaaa 0 1795653352000 1 disconnected\n"
		far  = "eeee 127.0.0.1:7005@17005 slave bbbb 0 1795653352000 2 connected\n"
	)
	want := []Replica{{"127.0.0.1:7003", false}, {"127.0.0.1:7004", true}}
	for _, text := range []string{"txt:" + self + peer + one + two + far, "txt:" + peer + one + far + self + two, self + one + two} {
		v := &view{members: readMembers(text, "127.0.0.1:7001")}
		if got := v.replicas(); !slices.Equal(got, want) {
			t.Errorf("replicas %v, want %v, of\n%s", got, want, text)
		}
	}
}
