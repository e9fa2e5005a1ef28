package rtm

import "rtm/store"

// Hint is what a request that leaves a shard with Forward tells about its identity:
// whose it is. False: it tells nothing that may be remembered, since the session
// index was asked, or the identity has moved and each request must ask the directory
// whose it was before.
func (in *Inbound) Hint() (identity string, account store.Key, ok bool) {
	return string(in.Request.Identity), in.Account, len(in.Request.Identity) > 0 && !in.indexed && !in.moved
}
