package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"rtm/api"
)

// A clientKind is a program that connects to rtm, and how it is told to.
type clientKind struct {
	name, title string
	host, realm string // its usual identity
	dialect     string // of its Peer document
	page        string
	more        string // of that document
	settings    string // what else its configuration needs
	begin       string // what makes it send its first CCR
}

var clientKinds = []*clientKind{
	{
		name: "open5gs", title: "an Open5GS SMF", host: "smf.localdomain", realm: "localdomain", dialect: "open5gs", page: "docs/open5gs.md",
		settings: "# in smf.yaml\nsmf:\n  ctf:\n    enabled: yes\n",
		begin:    "attach a phone: the SMF asks for quota when a session of 4G begins",
	},
	{
		name: "freediameter", title: "a freeDiameter relay", host: "dra.example.net", realm: "example.net", page: "docs/freediameter.md",
		more:  "relays: [REALM-OF-THE-GATEWAYS]\n",
		begin: "have a gateway behind it begin a session, or rtm sim --target RELAY --destination REALM",
	},
}

func doctorClientCommand(k *clientKind) *cobra.Command {
	v := &clientView{kind: k, remote: &remote{}}
	limit := time.Duration(0)
	cmd := &cobra.Command{
		Use: k.name, Short: "connect " + k.title + ", and see each step of its first session", Args: cobra.NoArgs,
		Long: "Print the lines that " + k.title + ` needs to find the instances that are alive, and the document that rtm needs
of it. Then watch until it is connected, has sent its first CCR-I and has got quota, and say of each step that
it is done, or what is wrong. It is told what the server knows: the server must run. ` + k.page + ` tells more.

Exit code 0: quota was granted; 1: it was not, or not in time.`,
		Example: "  rtm doctor " + k.name + "\n  rtm doctor " + k.name + " --host " + k.host + " --for 10m\n  rtm doctor " + k.name + " --print",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if limit > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, limit)
				defer cancel()
			}
			v.out = cmd.OutOrStdout()
			return v.run(ctx)
		},
	}
	cmd.Flags().StringVar(&v.host, "host", k.host, "its Origin-Host (Identity in its configuration)")
	cmd.Flags().StringVar(&v.realm, "realm", k.realm, "its Origin-Realm")
	cmd.Flags().BoolVar(&v.only, "print", false, "print the configuration, and do not watch")
	cmd.Flags().DurationVar(&limit, "for", 0, "give up after that time; 0: when it is interrupted")
	return v.remote.reach(cmd)
}

// clientView follows one client from its configuration to its first grant.
type clientView struct {
	kind        *clientKind
	remote      *remote
	host, realm string
	only        bool
	out         io.Writer

	mu      sync.Mutex // guards out and those below
	asked   bool       // a CCR-I came
	granted bool
	end     context.CancelFunc // nothing more is to be seen
	who     string             // the subscriber of the last CCR-I
}

// step says what became of one.
func (v *clientView) step(l level, what, do, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.say(l, what, do, format, args...)
}

// say is step with v.mu held.
func (v *clientView) say(l level, what, do, format string, args ...any) {
	fmt.Fprintf(v.out, "%-4s  %-12s %s\n", l, what, fmt.Sprintf(format, args...))
	if do != "" {
		fmt.Fprintf(v.out, "      %-12s → %s\n", "", do)
	}
}

var errUngranted = errors.New("it has not got any quota")

func (v *clientView) run(ctx context.Context) error {
	all, err := v.remote.instances(ctx)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(i api.Instance) bool { return i.Leaving || len(i.Diameter) == 0 })
	if len(all) == 0 {
		return errors.New("no instance takes Diameter: begin with rtm dev or rtm serve")
	}
	v.configuration(all)
	if v.only {
		return nil
	}
	fmt.Fprintln(v.out)
	v.step(levelOK, "server", "", "%d instances are there", len(all))
	if len(all) == 1 && v.kind.dialect == "open5gs" {
		v.step(levelWarn, "server", "run a second one: when a report comes and no Gy peer is there, the SMF crashes", "it is the only one")
	}
	if err := v.connected(ctx, all); err != nil {
		return err
	}
	return v.session(ctx, all)
}

// configuration prints both sides' settings.
func (v *clientView) configuration(all []api.Instance) {
	fmt.Fprintf(v.out, "# The freeDiameter configuration of %s. The names must be those of the instances.\n", v.kind.title)
	fmt.Fprintf(v.out, "Identity = %q;\nRealm = %q;\n", v.host, v.realm)
	for _, i := range all {
		host, port, err := net.SplitHostPort(i.Diameter[0])
		if ip := net.ParseIP(host); err != nil || ip != nil && ip.IsUnspecified() {
			host = cmp.Or(i.Machine, "ADDRESS-OF-"+i.Name)
		}
		fmt.Fprintf(v.out, "ConnectPeer = %q { ConnectTo = %q; Port = %s; No_TLS; };\n", i.PeerHost, host, port)
	}
	if v.kind.settings != "" {
		fmt.Fprintf(v.out, "\n%s", v.kind.settings)
	}
	fmt.Fprintf(v.out, "\n# rtm: rtm apply -f peer.yaml, with its own address and your tenants\nkind: Peer\nhost: %s\nrealm: %s\nsources: [127.0.0.0/8]\ntenants: [TENANT]\n%s", v.host, v.realm, v.kind.more)
	if v.kind.dialect != "" {
		fmt.Fprintf(v.out, "dialect: %s\n", v.kind.dialect)
	}
}

// connected waits until the client is connected to an instance.
func (v *clientView) connected(ctx context.Context, all []api.Instance) error {
	begun, told := time.Now().Add(-10*time.Second), make(map[string]bool)
	for waiting := false; ; waiting = true {
		for _, at := range v.remote.servers(all) {
			r := remote{url: at}
			var list struct {
				Peers   []api.Peer
				Refused []api.Refusal
			}
			if err := r.call(ctx, http.MethodGet, "/v1/peers", nil, nil, &list); err != nil {
				continue // another one knows it, too
			}
			for i := range list.Peers {
				if p := &list.Peers[i]; strings.EqualFold(p.Host, v.host) && len(p.Instances) > 0 {
					v.met(p)
					return nil
				}
			}
			for _, n := range list.Refused {
				if n.At.After(begun) && (strings.EqualFold(n.Host, v.host) || n.Host == "") && !told[n.Address+n.Why] {
					told[n.Address+n.Why] = true
					v.step(levelFail, "connected", n.Fix, "%s came from %s to %s, and was refused: %s", cmp.Or(n.Host, "somebody"), n.Address, n.Instance, n.Why)
				}
			}
		}
		if !waiting {
			v.step("…", "connected", "", "waiting for %s: start it, or restart it with these settings", v.host)
		}
		select {
		case <-ctx.Done():
			v.step(levelFail, "connected", "look into its log for the addresses above; whoever else connects rtm peer list shows", "%s has not come", v.host)
			return exitError{errUngranted, exitFailed}
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// met says who is connected.
func (v *clientView) met(p *api.Peer) {
	v.step(levelOK, "connected", "", "%s to %s; capabilities are exchanged", p.Host, strings.Join(p.Instances, " and "))
	switch {
	case !p.Declared:
		v.step(levelWarn, "document", "rtm apply the document above", "none names it: it was let in as anybody, as a generic peer")
	case v.kind.dialect != "" && p.Dialect != v.kind.dialect:
		v.step(levelWarn, "document", "set dialect: "+v.kind.dialect+" in it, and apply it again", "it says that the peer speaks %s", cmp.Or(p.Dialect, "generic"))
	default:
		v.step(levelOK, "document", "", "it speaks %s, for %s", cmp.Or(p.Dialect, "generic"), strings.Join(p.Tenants, " and "))
	}
}

// session watches until the first quota is granted.
func (v *clientView) session(ctx context.Context, all []api.Instance) error {
	watching, end := context.WithCancel(ctx)
	defer end()
	v.end = end
	v.step("…", "first CCR-I", "", "waiting: %s", v.kind.begin)
	var done sync.WaitGroup
	for _, at := range v.remote.servers(all) {
		done.Go(func() {
			for watching.Err() == nil { // an instance may come back
				_ = followTrace(watching, at, v.host, func(string) {}, v.see)
				select {
				case <-watching.Done():
				case <-time.After(time.Second):
				}
			}
		})
	}
	done.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.granted:
		return nil
	case !v.asked:
		v.say(levelFail, "first CCR-I", v.kind.begin, "none has come")
	}
	return exitError{errUngranted, exitFailed}
}

// valueIn is the value at the end of a line of a trace that shows an AVP.
func valueIn(text []string, name string) string {
	for _, line := range text {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), name); ok && (rest == "" || !wordShape.MatchString(rest[:1])) {
			return strings.Trim(rest, " :=\"")
		}
	}
	return ""
}

var wordShape = regexp.MustCompile(`[A-Za-z-]`)

// see takes a message that went by.
func (v *clientView) see(l *api.TraceLine) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.granted:
	case l.Message == "CCR-I" && l.Way == "in":
		v.asked, v.who = true, valueIn(l.Text, "Subscription-Id-Data")
		v.say(levelOK, "first CCR-I", "", "%s, at %s", l.Session, l.Instance)
	case l.Message == "CCA-I" && l.Result == 2001 && slices.ContainsFunc(l.Text, func(s string) bool { return strings.Contains(s, "Granted-Service-Unit") }):
		v.say(levelOK, "first grant", "", "after %s: rtm session show %s", time.Duration(l.Micros)*time.Microsecond, l.Session)
		v.granted = true
		v.end()
	case l.Message == "CCA-I":
		v.refused(l)
	}
}

// refused says why a CCA-I has granted nothing. v.mu is held.
func (v *clientView) refused(l *api.TraceLine) {
	result := fmt.Sprint(l.Result)
	if l.Result == 2001 {
		result = "2001, and refuses its rating groups"
		for _, line := range l.Text {
			for _, code := range []string{"4010", "4012", "5031"} {
				if strings.Contains(line, "Result-Code") && strings.Contains(line, code) {
					result = code + " for a rating group"
				}
			}
		}
	}
	do := "rtm trace " + v.host + " shows the whole message"
	switch {
	case l.Result == 5030:
		do = "rtm subscriber add --imsi " + cmp.Or(v.who, "NUMBER") + " --tenant TENANT --plan PLAN --balance 10"
	case strings.HasPrefix(result, "4012"):
		do = "it has no credit: rtm balance topup " + cmp.Or(v.who, "SUBSCRIBER") + " 10"
	case strings.HasPrefix(result, "5031"):
		do = "its plan has no service for what was asked: one with default: true takes what names no rating group; rtm plan list"
	}
	v.say(levelFail, "first grant", do, "the answer is %s", result)
}
