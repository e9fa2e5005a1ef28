package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"rtm/api"
	"rtm/cdr"
	"rtm/rating"
	"rtm/tenant"
)

// explanation is what `rtm explain` was asked.
type explanation struct {
	remote
	session    string
	subscriber string
	dirs       []string
	last       int
}

func explainCommand() *cobra.Command {
	x := &explanation{last: 20}
	cmd := &cobra.Command{
		Use: "explain [SESSION]", Short: "explain what a session cost, or the last entries of an account", Args: cobra.MaximumNArgs(1),
		Long: `Tell for each message of a session what it used, which rule priced it, the arithmetic, and what was taken from
which bucket, reserved and given back: from what is in the store and in record files, also of a session that is over.
Every charge is worked out again and compared. Without a session, the last entries of a subscriber's account are told.

A server sees its own record files. With --records the files are read here, from the directories of all machines.`,
		Example: "  rtm explain 'smf.localdomain;1;7'\n  rtm explain 'smf.localdomain;1;7' --records /srv/a/records --records /srv/b/records\n  rtm explain --subscriber 001010000000001",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				x.session = args[0]
			}
			if x.session == "" && x.subscriber == "" {
				return exitError{errors.New("name a session, or an account with --subscriber"), exitUsage}
			}
			s, err := x.story(cmd.Context())
			if err != nil {
				return err
			}
			return x.print(cmd.OutOrStdout(), s, func(w io.Writer) { storyTable(w, s, time.Local) })
		},
	}
	cmd.Flags().StringVar(&x.subscriber, "subscriber", "", "whose session it is: spares looking for it; alone: explain the account")
	cmd.Flags().StringArrayVar(&x.dirs, "records", nil, "read the record files of this directory here; may be repeated")
	cmd.Flags().IntVar(&x.last, "last", x.last, "without a session: how many entries of the account, up to 1000")
	offer(cmd, "subscriber", x.completion(subscriberNames))
	return offerFirst(x.bind(cmd), x.completion(sessionNames))
}

// story asks the server, or reads record files here.
func (x *explanation) story(ctx context.Context) (*api.Story, error) {
	s := &api.Story{}
	switch {
	case len(x.dirs) > 0:
		return x.read(ctx)
	case x.session == "":
		return s, x.call(ctx, "GET", fmt.Sprintf("/v1/subscribers/%s/explain?last=%d", url.PathEscape(x.subscriber), x.last), nil, nil, s)
	}
	path := "/v1/sessions/" + url.PathEscape(x.session) + "/explain"
	if x.subscriber != "" {
		path += "?subscriber=" + url.QueryEscape(x.subscriber)
	}
	return s, x.call(ctx, "GET", path, nil, nil, s)
}

// read tells the story from record files, with the plans of the server if there
// is one.
func (x *explanation) read(ctx context.Context) (*api.Story, error) {
	look := cdr.Search{Dirs: x.dirs, Session: x.session, Last: x.last}
	if x.subscriber != "" {
		var err error
		if look.Tenant, look.Account, err = x.owner(ctx); err != nil {
			return nil, err
		}
	}
	records, err := look.Run(ctx)
	if err != nil {
		return nil, err
	}
	if len(records) == 0 {
		return nil, errors.New(api.NoRecords(x.session))
	}
	known := pricing{remote: &x.remote, known: make(map[string]*rating.Plan)}
	s := api.Telling{Session: x.session, Plan: func(t, plan string, version uint32) *rating.Plan {
		return known.version(ctx, t, plan, version)
	}}.Tell(records)
	if known.err != nil {
		s.Missing = append(s.Missing, fmt.Sprintf("prices are not known, and no charge was worked out again: %v", known.err))
	}
	return &s, nil
}

// owner is the account that --subscriber means.
func (x *explanation) owner(ctx context.Context) (of, account string, err error) {
	if of, account, ok := strings.Cut(x.subscriber, "/"); ok {
		return of, account, nil
	}
	var s api.Subscriber
	if err := x.call(ctx, "GET", "/v1/subscribers/"+url.PathEscape(x.subscriber), nil, nil, &s); err != nil {
		return "", "", fmt.Errorf("whose account is %s? %w; or write it as tenant/account", x.subscriber, err)
	}
	return s.Tenant, s.Account, nil
}

// pricing asks a server for plans, each once.
type pricing struct {
	*remote
	known map[string]*rating.Plan
	err   error // of the first that cannot be had
}

func (p *pricing) version(ctx context.Context, of, plan string, version uint32) *rating.Plan {
	name := fmt.Sprintf("%s/%s/%d", of, plan, version)
	if known, ok := p.known[name]; ok || p.err != nil {
		return known
	}
	d, err := p.plan(ctx, of+"/"+plan, version)
	if err == nil {
		p.known[name], err = d.Document.Compile(version)
	}
	if no, ok := errors.AsType[refusal](err); ok && no.status == 404 {
		p.known[name], err = nil, nil // that one is gone, which the story says
	}
	p.err = err
	return p.known[name]
}

// A sheet is a story as a table: rows of cells, and lines of text between them.
type sheet struct {
	*api.Story
	zone     *time.Location
	clock    string // the layout of times
	decimals int    // of money
	rows     []row
}

// A row has cells, or a text behind the first ones.
type row struct {
	cells [columns]string
	text  string
}

// The columns of a story.
const (
	colTime = iota
	colBy
	colMessage
	colGroup
	colUsed
	colRule
	colHow
	colGranted
	colBucket
	colCredited
	colTaken
	colReleased
	colReserved
	colFree
	columns
)

var titles = [columns]string{"TIME", "BY", "MSG", "GROUP", "USED", "RULE", "CHARGED", "GRANTED", "BUCKET", "CREDITED", "TAKEN", "RELEASED", "RESERVED", "FREE"}

// storyTable writes a story for people.
func storyTable(w io.Writer, s *api.Story, zone *time.Location) {
	t := &sheet{Story: s, zone: zone, clock: "15:04:05", decimals: 2}
	t.measure()
	t.heading(w)
	for i := range s.Steps {
		t.step(&s.Steps[i])
	}
	t.write(w)
	t.verdict(w)
}

// measure finds out how many decimals all money needs, and whether times need
// their date.
func (t *sheet) measure() {
	days := make(map[string]bool)
	for i := range t.Steps {
		s := &t.Steps[i]
		days[s.At.In(t.zone).Format(time.DateOnly)] = true
		for _, b := range s.Buckets {
			for _, n := range []int64{b.Credited, b.Taken, b.TakenOfFree, b.Released, b.Reserved, b.Free} {
				for b.Unit == rating.Money.String() && t.decimals < 6 && n%pow10(6-t.decimals) != 0 {
					t.decimals++
				}
			}
		}
	}
	if len(days) > 1 {
		t.clock = time.DateTime
	}
}

func pow10(n int) int64 {
	p := int64(1)
	for range n {
		p *= 10
	}
	return p
}

func (t *sheet) heading(w io.Writer) {
	if t.Session == "" {
		fmt.Fprintf(w, "%s/%s  the last %d entries%s\n\n", t.Tenant, t.Account, len(t.Steps), t.currency())
		return
	}
	fmt.Fprintf(w, "%s  %s, %s on %s\n", t.Session, t.state(), many(int(t.Messages), "message"), many(len(t.Instances), "instance"))
	fmt.Fprintf(w, "%s/%s  %s  gateway %s", t.Tenant, t.Account, t.Identity, t.Host)
	if len(t.Plans) > 0 {
		fmt.Fprintf(w, "  plan %s", strings.Join(t.Plans, ", "))
	}
	if t.Opened != nil {
		fmt.Fprintf(w, "  opened %s", t.Opened.In(t.zone).Format(time.DateTime))
	}
	fmt.Fprintf(w, "%s\n\n", t.currency())
}

func many(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (t *sheet) currency() string {
	if t.Currency == "" {
		return ""
	}
	return "  money in " + t.Currency
}

func (t *sheet) state() string {
	switch {
	case t.Ended != nil:
		return fmt.Sprintf("closed %s (%s)", t.Ended.In(t.zone).Format(t.clock), t.Cause)
	case t.State == "unknown":
		return "neither open nor with a final record"
	}
	return t.State
}

// step adds the rows of one step: the rating groups on the left, the buckets on
// the right.
func (t *sheet) step(s *api.Step) {
	var head [columns]string
	head[colTime], head[colBy], head[colMessage] = s.At.In(t.zone).Format(t.clock), s.Instance, message(s)
	if s.Session != "" && s.Text == "" {
		t.rows = append(t.rows, row{cells: head, text: s.Session})
		head = [columns]string{}
	} else if s.Text != "" {
		text := s.Text
		if s.Session != "" {
			text = s.Session + ": " + text
		}
		t.rows = append(t.rows, row{cells: head, text: text})
		head = [columns]string{}
	}
	from := len(t.rows)
	at := func(i int) *row {
		for len(t.rows) <= from+i {
			t.rows = append(t.rows, row{})
		}
		return &t.rows[from+i]
	}
	for i := range s.Items {
		t.item(at(i), &s.Items[i])
	}
	for i := range s.Buckets {
		t.bucket(at(i), &s.Buckets[i])
	}
	if head[colTime] != "" {
		r := at(0)
		copy(r.cells[:colGroup], head[:colGroup])
	}
	t.notes(s)
}

func message(s *api.Step) string {
	if first := s.Request; strings.HasSuffix(first, "_REQUEST") && s.Type != "final" {
		return fmt.Sprintf("%s %d", first[:1], s.Number)
	}
	return ""
}

func (t *sheet) item(r *row, it *api.Item) {
	c := &r.cells
	c[colGroup] = groupOf(it)
	if it.Used != 0 {
		c[colUsed] = amount(it.Used, it.Unit)
	}
	if c[colRule] = it.RuleName; it.RuleName == "" && it.Rule != 0 {
		c[colRule] = fmt.Sprintf("rule %d", it.Rule)
	}
	c[colHow] = it.How
	if it.Granted != 0 {
		c[colGranted] = amount(it.Granted, it.GrantedUnit)
	} else if it.Asked != nil {
		c[colGranted] = "nothing"
	}
}

func groupOf(it *api.Item) string {
	switch {
	case it.RatingGroup == nil && it.ServiceID == nil:
		return "–"
	case it.RatingGroup == nil:
		return fmt.Sprintf("–/%d", *it.ServiceID)
	case it.ServiceID != nil:
		return fmt.Sprintf("%d/%d", *it.RatingGroup, *it.ServiceID)
	}
	return fmt.Sprint(*it.RatingGroup)
}

func (t *sheet) bucket(r *row, b *api.Effect) {
	c := &r.cells
	c[colBucket] = b.Name
	for _, v := range []struct {
		at int
		n  int64
	}{{colCredited, b.Credited}, {colTaken, b.Taken}, {colReleased, b.Released}, {colReserved, b.Reserved}} {
		if v.n != 0 {
			c[v.at] = t.amount(v.n, b.Unit)
		}
	}
	c[colFree] = t.amount(b.Free, b.Unit)
}

// amount is like the function, with as many decimals for all money.
func (t *sheet) amount(n int64, unit string) string {
	text := amount(n, unit)
	if unit == rating.Money.String() {
		text += strings.Repeat("0", max(0, t.decimals-(len(text)-strings.IndexByte(text, '.')-1)))
	}
	return text
}

// amount is a quantity of a unit, for people.
func amount(n int64, unit string) string {
	for _, u := range []rating.Unit{rating.Octets, rating.Seconds, rating.Events, rating.Money} {
		if u.String() == unit {
			return tenant.FormatQuantity(n, u)
		}
	}
	return fmt.Sprint(n)
}

// notes adds what is odd about a step, a line each.
func (t *sheet) notes(s *api.Step) {
	note := func(text string) {
		t.rows = append(t.rows, row{text: text})
	}
	for i := range s.Items {
		it := &s.Items[i]
		notes := slices.Clone(it.Notes)
		if it.Asked != nil && *it.Asked > 0 && *it.Asked != it.Granted && it.GrantedUnit != "" {
			notes = append(notes, "it asked for "+amount(*it.Asked, it.GrantedUnit))
		}
		for _, n := range notes {
			if len(s.Items) > 1 {
				n = "group " + groupOf(it) + ": " + n
			}
			note(n)
		}
	}
	for _, b := range s.Buckets {
		if b.TakenOfFree > 0 && b.TakenOfFree < b.Taken {
			note(fmt.Sprintf("%s: %s of what was taken had been reserved, %s was free", b.Name, t.amount(b.Taken-b.TakenOfFree, b.Unit), t.amount(b.TakenOfFree, b.Unit)))
		} else if b.TakenOfFree > 0 {
			note(b.Name + ": what was taken had not been reserved")
		}
		if b.Overrun > 0 {
			note(fmt.Sprintf("%s: %s is owed, it was not there", b.Name, t.amount(b.Overrun, b.Unit)))
		}
	}
	for _, w := range s.Wrong {
		note("!!! " + w)
	}
}

// write aligns the rows, without columns that are empty.
func (t *sheet) write(w io.Writer) {
	var widths [columns]int
	buckets := make(map[string]bool)
	for i := range t.rows {
		for c, cell := range t.rows[i].cells {
			widths[c] = max(widths[c], utf8.RuneCountInString(cell))
		}
		buckets[t.rows[i].cells[colBucket]] = true
	}
	if delete(buckets, ""); len(buckets) == 1 && buckets[rating.Money.String()] {
		widths[colBucket] = 0
	}
	for c := range widths {
		if widths[c] > 0 {
			widths[c] = max(widths[c], utf8.RuneCountInString(titles[c]))
		}
	}
	line := func(r *row) {
		var b strings.Builder
		for c, width := range widths {
			if width == 0 {
				continue
			}
			if c == colGroup && r.text != "" {
				b.WriteString(r.text)
				break
			}
			pad := strings.Repeat(" ", width-utf8.RuneCountInString(r.cells[c]))
			if right := c >= colCredited || c == colUsed || c == colGranted; right {
				b.WriteString(pad + r.cells[c] + "  ")
			} else {
				b.WriteString(r.cells[c] + pad + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
	line(&row{cells: titles})
	for i := range t.rows {
		line(&t.rows[i])
	}
}

// verdict says what it comes to, and whether it comes out right.
func (t *sheet) verdict(w io.Writer) {
	fmt.Fprintln(w)
	if t.Session != "" {
		for i := range t.Totals {
			fmt.Fprintf(w, "in all: %s\n", totalText(&t.Totals[i]))
		}
		var taken []string
		for i := range t.Taken {
			if b := &t.Taken[i]; b.Taken != 0 {
				taken = append(taken, t.amount(b.Taken, b.Unit)+" of "+b.Name)
			}
		}
		if len(taken) > 0 {
			fmt.Fprintf(w, "taken:  %s\n", strings.Join(taken, ", "))
		}
	}
	for _, m := range t.Missing {
		fmt.Fprintf(w, "missing: %s\n", m)
	}
	for _, m := range t.Wrong {
		fmt.Fprintf(w, "WRONG: %s\n", m)
	}
	if len(t.Missing)+len(t.Wrong) == 0 && !slices.ContainsFunc(t.Steps, unpriced) {
		fmt.Fprintln(w, "Every charge was worked out again, and all sums come out right.")
	}
}

// unpriced reports whether a step has a charge that could not be worked out.
func unpriced(s api.Step) bool {
	return s.Type != "final" && slices.ContainsFunc(s.Items, func(it api.Item) bool { return it.Rule != 0 && it.RuleName == "" })
}

func totalText(u *api.Total) string {
	var used []string
	for _, v := range []struct {
		n    int64
		unit rating.Unit
	}{{u.Octets, rating.Octets}, {u.Seconds, rating.Seconds}, {u.Events, rating.Events}} {
		if v.n != 0 && (u.Unit == "" || u.Unit == v.unit.String()) { // the rest came along and cost nothing
			used = append(used, tenant.FormatQuantity(v.n, v.unit))
		}
	}
	if len(used) == 0 {
		used = []string{"nothing"}
	}
	group := groupOf(&api.Item{RatingGroup: u.RatingGroup, ServiceID: u.ServiceID})
	return fmt.Sprintf("group %s used %s, charged %s", group, strings.Join(used, ", "), tenant.FormatMoney(rating.Micros(u.Charged)))
}
