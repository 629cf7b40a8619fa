package explain

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/charmbracelet/lipgloss"
	"google.golang.org/protobuf/types/known/durationpb"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

// page is an explanation as people read it.
type page struct {
	text strings.Builder
	head lipgloss.Style
	good lipgloss.Style
}

// maxShown bounds the rules, and the instances, that are written out.
const maxShown = 50

// maxLost bounds the policies of a kind that are written out though they do not hold.
const maxLost = 10

// Text writes an explanation for people, in colour where out is a terminal.
func Text(out io.Writer, e *adminv1.ExplainResponse) string {
	r := lipgloss.NewRenderer(out)
	p := &page{head: r.NewStyle().Bold(true), good: r.NewStyle().Foreground(lipgloss.Color("2"))}
	switch {
	case e.GetService() == "":
		p.linef("%s, addressed to no service", e.GetMethod())
	default:
		p.linef("%s, addressed to %s (by %s)", e.GetMethod(), e.GetService(), e.GetServiceBy())
	}
	p.rules(e.GetRules())
	p.split(e.GetSplit())
	p.inForce("POLICIES", e.GetInForce())
	for _, o := range e.GetOutcomes() {
		p.outcome(o, len(e.GetOutcomes()) > 1)
	}
	p.inForce("BESIDE THE SERVICE", e.GetInbound())
	if len(e.GetNotes()) > 0 {
		p.title("NOTES")
		for _, note := range e.GetNotes() {
			p.linef("  %s", note)
		}
	}
	return p.text.String()
}

func (p *page) linef(format string, args ...any) { fmt.Fprintf(&p.text, format+"\n", args...) }

func (p *page) title(text string) { p.linef("\n%s", p.head.Render(text)) }

// table writes rows of cells below each other.
func (p *page) table(rows [][]string) {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintf(w, "  %s\n", strings.Join(row, "\t"))
	}
	_ = w.Flush() // a builder takes all
	for line := range strings.Lines(table.String()) {
		p.text.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

func (p *page) rules(rules []*adminv1.RuleSeen) {
	if len(rules) == 0 {
		return
	}
	p.title("RULES")
	var rows [][]string
	left := 0
	for i, r := range rules {
		// Of many rules, those are shown that come first, and those that matter.
		if i >= maxShown && !r.GetMatched() {
			left++
			continue
		}
		verdict := "no"
		switch {
		case r.GetDecided():
			verdict = "decides"
		case r.GetMatched():
			verdict = "matches"
		}
		why := r.GetWhy()
		if r.GetWhere() != "" {
			why = strings.TrimSpace(why + " (" + r.GetWhere() + ")")
		}
		rows = append(rows, []string{r.GetPolicy() + "/" + r.GetRule(), verdict, why})
	}
	p.table(rows)
	if left > 0 {
		p.linef("  and %d more that do not match", left)
	}
}

func (p *page) split(s *adminv1.SplitSeen) {
	if s == nil {
		return
	}
	p.title("SPLIT")
	group := ""
	if s.GetGroup() != "" {
		group = ", so " + s.GetGroup()
	}
	bucket := ""
	if s.Bucket != nil {
		bucket = fmt.Sprintf(": bucket %d", s.GetBucket())
	}
	p.linef("  %s%s%s", s.GetWhy(), bucket, group)
	var of []string
	for _, segment := range s.GetSegments() {
		of = append(of, fmt.Sprintf("%s %d-%d", segment.GetGroup(), segment.GetFrom(), segment.GetEnd()-1))
	}
	p.linef("  buckets: %s", strings.Join(of, ", "))
}

func (p *page) inForce(title string, list []*adminv1.InForce) {
	if len(list) == 0 {
		return
	}
	p.title(title)
	p.table(inForceRows(list))
}

func inForceRows(list []*adminv1.InForce) (rows [][]string) {
	for _, f := range list {
		if f.GetPolicy() == "" {
			rows = append(rows, []string{f.GetKind(), "none"})
		} else {
			text := f.GetSays()
			if f.GetState() != "" {
				text += " [" + f.GetState() + "]"
			}
			rows = append(rows, []string{f.GetKind(), f.GetPolicy(), f.GetWhere(), text})
		}
		for i, lost := range f.GetLost() {
			if i == maxLost {
				rows = append(rows, []string{"", fmt.Sprintf("and not %d more", len(f.GetLost())-i)})
				break
			}
			rows = append(rows, []string{"", "not " + lost.GetPolicy(), lost.GetWhere(), lost.GetWhy()})
		}
	}
	return rows
}

// Destination writes where an outcome goes on one line.
func Destination(o *adminv1.Outcome) string {
	switch {
	case o.GetStatus() != "":
		return fmt.Sprintf("%s: %s", o.GetStatus(), o.GetMessage())
	case o.GetService() == "":
		return "nowhere"
	}
	text := o.GetService()
	if o.GetSubset() != "" {
		text += ", subset " + o.GetSubset()
	}
	if o.GetGroup() != "" {
		text += ", group " + o.GetGroup()
	}
	return text
}

func (p *page) outcome(o *adminv1.Outcome, several bool) {
	title := "RESULT"
	if several {
		title = fmt.Sprintf("RESULT (at random: %s of such RPCs)", policy.Percent(o.GetShare()))
	}
	p.title(title)
	verb := "goes to"
	if o.GetStatus() != "" {
		verb = "is answered"
	}
	rows := [][]string{{verb, p.good.Render(Destination(o))}}
	add := func(name, text string) {
		if text != "" {
			rows = append(rows, []string{name, text})
		}
	}
	add("by rule", o.GetRule())
	if o.GetStatus() == "" {
		add("deadline", deadline(o))
		add("attempts", Attempts(o))
		add("limits", strings.Join(o.GetRateLimits(), "; "))
		add("fault", o.GetFault())
		add("mirror", o.GetMirror())
		add("authority", o.GetAuthority())
		for i, m := range o.GetMetadata() {
			name := ""
			if i == 0 {
				name = "metadata"
			}
			rows = append(rows, []string{name, m.GetKey() + ": " + m.GetValue()})
		}
		for _, s := range o.GetSplits() {
			add("split", Split(s))
		}
		add("else to", strings.Join(o.GetFailover(), ", "))
		add("circuit", circuitText(o.GetCircuit()))
	}
	p.table(rows)
	if len(o.GetDestination()) > 0 {
		p.linef("")
		p.table(inForceRows(o.GetDestination()))
	}
	p.candidates(o.GetCandidates())
	p.access(o.GetAccess())
}

// Split writes what became of a split policy on one line.
func Split(s *adminv1.SplitSeen) string {
	text := s.GetPolicy() + ": "
	switch {
	case !s.GetHolds():
		return text + "does nothing: " + s.GetWhy()
	case s.Bucket != nil:
		text += fmt.Sprintf("%s, %s: bucket %d", s.GetGroup(), s.GetWhy(), s.GetBucket())
	default:
		text += s.GetGroup() + ", " + s.GetWhy()
	}
	if s.GetPlaces() {
		text += "; it says where the RPC goes"
	}
	return text
}

func deadline(o *adminv1.Outcome) string {
	text := "none"
	if o.GetTimeout() != nil {
		text = o.GetTimeout().AsDuration().String()
	}
	if o.GetPerAttemptTimeout() != nil {
		text += ", an attempt " + o.GetPerAttemptTimeout().AsDuration().String()
	}
	return text
}

// Attempts writes how often an RPC is sent, and when.
func Attempts(o *adminv1.Outcome) string {
	switch {
	case o.GetMaxAttempts() <= 1:
		return ""
	case o.GetHedgingDelay() != nil:
		text := fmt.Sprintf("%d, each %v after the one before", o.GetMaxAttempts(), o.GetHedgingDelay().AsDuration())
		if len(o.GetRetryOn()) > 0 {
			text += " or at once after " + strings.Join(o.GetRetryOn(), ", ")
		}
		return text
	}
	return fmt.Sprintf("%d, on %s", o.GetMaxAttempts(), strings.Join(o.GetRetryOn(), ", "))
}

func circuitText(c *adminv1.CircuitSeen) string {
	if c == nil {
		return ""
	}
	text := c.GetState()
	if c.GetUntil() != nil {
		text += " until " + c.GetUntil().AsTime().Format(time.TimeOnly)
	}
	if c.GetReason() != "" {
		text += ": " + c.GetReason()
	}
	if c.GetUnderWay()+c.GetWaiting() > 0 {
		text += fmt.Sprintf("; %d under way, %d waiting", c.GetUnderWay(), c.GetWaiting())
	}
	if c.GetRefused() > 0 {
		text += fmt.Sprintf("; %d refused", c.GetRefused())
	}
	return text
}

func (p *page) candidates(list []*adminv1.Candidate) {
	if len(list) == 0 {
		return
	}
	rows := [][]string{{"", "INSTANCE", "SUBSET", "SHARE", "WEIGHT", "RPCS", "LATENCY", "STATE", "META"}}
	for _, c := range list[:min(len(list), maxShown)] {
		mark := ""
		if c.GetWould() {
			mark = "*"
		}
		state := "usable"
		if !c.GetUsable() {
			state = strings.Join(strings.Fields(c.GetWhy()), " ")
		}
		if c.GetFar() {
			state += ", far"
		}
		rows = append(rows, []string{
			mark, c.GetAddress(), dash(c.GetSubset()), policy.Percent(c.GetShare()), strconv.FormatUint(uint64(c.GetWeight()), 10),
			strconv.FormatUint(uint64(c.GetInFlight()), 10), latency(c.GetLatency()), state, meta(c.GetMeta()),
		})
	}
	p.linef("")
	p.table(rows)
	if more := len(list) - maxShown; more > 0 {
		p.linef("  and %d more", more)
	}
	if slices.ContainsFunc(list, (*adminv1.Candidate).GetWould) {
		p.linef("  * would be picked, or might be where chance decides")
	} else {
		p.linef("  none of them can be picked now")
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func latency(d *durationpb.Duration) string {
	if d == nil {
		return "-"
	}
	return d.AsDuration().Round(time.Microsecond * 100).String()
}

func meta(m map[string]string) string {
	var of []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		of = append(of, key+"="+m[key])
	}
	return dash(strings.Join(of, " "))
}
