package demo

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/lipgloss"
)

// screen shows the load: as one picture that is redrawn, or line by line where
// the output is no terminal.
type screen struct {
	out    io.Writer
	live   bool
	names  []string // of the greeters
	drawn  int      // lines of the picture drawn last
	recent []string
}

func newScreen(out io.Writer, live bool, names []string) *screen {
	return &screen{out: out, live: live, names: names}
}

// maxEvents is how many events the picture keeps in sight.
const maxEvents = 3

// event says that something happens.
func (s *screen) event(what string) {
	if !s.live {
		fmt.Fprintf(s.out, "-- %s\n", what)
		return
	}
	s.recent = append(s.recent, what)
	s.recent = s.recent[max(0, len(s.recent)-maxEvents):]
}

// say says something that stays: above the picture, where there is one.
func (s *screen) say(text string) {
	if s.drawn > 0 {
		fmt.Fprintf(s.out, "\x1b[%dA\x1b[J", s.drawn)
		s.drawn = 0
	}
	fmt.Fprintln(s.out, strings.TrimSuffix(text, "\n"))
}

// second shows one second of the load: what went to each greeter, and a note.
func (s *screen) second(at time.Duration, f figures, by map[string]int, note string) {
	if !s.live {
		fmt.Fprintln(s.out, s.line(at, f, by, note))
		return
	}
	picture := s.picture(at, f, by, note)
	if s.drawn > 0 {
		fmt.Fprintf(s.out, "\x1b[%dA\x1b[J", s.drawn) // up, and clear below
	}
	fmt.Fprintln(s.out, picture)
	s.drawn = strings.Count(picture, "\n") + 1
}

func (s *screen) line(at time.Duration, f figures, by map[string]int, note string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%4.0fs ", at.Seconds())
	for _, name := range s.names {
		fmt.Fprintf(&b, "  %s %4d", name, by[name])
	}
	fmt.Fprintf(&b, "   p50 %s  p99 %s   %s", rounded(f.percentile(0.5)), rounded(f.percentile(0.99)), outcome(f))
	if note != "" {
		b.WriteString("   " + note)
	}
	return b.String()
}

func outcome(f figures) string {
	if f.failed() == 0 {
		return "all OK"
	}
	var parts []string
	for _, code := range slices.Sorted(maps.Keys(f.failures)) {
		parts = append(parts, fmt.Sprintf("%s %d", code, f.failures[code]))
	}
	return strings.Join(parts, ", ")
}

var (
	bold  = lipgloss.NewStyle().Bold(true)
	faint = lipgloss.NewStyle().Faint(true)
	good  = lipgloss.NewStyle().Foreground(lipgloss.Color("2"))
	bad   = lipgloss.NewStyle().Foreground(lipgloss.Color("1")).Bold(true)
	bars  = []lipgloss.Style{
		lipgloss.NewStyle().Foreground(lipgloss.Color("4")),
		lipgloss.NewStyle().Foreground(lipgloss.Color("5")),
		lipgloss.NewStyle().Foreground(lipgloss.Color("6")),
	}
)

// barWidth is how wide the bar of all RPCs is, and pictureWidth the widest that a line
// may be: one that the terminal broke would spoil the next picture.
const (
	barWidth     = 50
	pictureWidth = 78
)

func (s *screen) picture(at time.Duration, f figures, by map[string]int, note string) string {
	sum := 0
	for _, n := range by {
		sum += n
	}
	sum = max(1, sum, len(f.latencies)+f.failed())
	rows := []string{bold.Render(fmt.Sprintf("client → sidecar ═ mutual TLS ═ sidecar → greeter  %3.0f s", at.Seconds()))}
	for i, name := range s.names {
		n := by[name]
		bar := bars[i%len(bars)].Render(strings.Repeat("█", n*barWidth/sum))
		rows = append(rows, fmt.Sprintf("  greeter %s %5d/s %s", name, n, bar))
	}
	status := good.Render(outcome(f))
	if f.failed() > 0 {
		status = bad.Render(outcome(f))
	}
	rows = append(rows, fmt.Sprintf("  p50 %s   p99 %s   %s", rounded(f.percentile(0.5)), rounded(f.percentile(0.99)), status))
	if note != "" {
		rows = append(rows, lipgloss.NewStyle().Width(pictureWidth).Render("  "+note))
	}
	for _, e := range s.recent {
		rows = append(rows, faint.Width(pictureWidth).Render("  • "+e))
	}
	return strings.Join(rows, "\n")
}

func rounded(d time.Duration) string { return fmt.Sprintf("%6.2f ms", d.Seconds()*1000) }

// summarize says how it went.
func summarize(out io.Writer, t totals, names []string, retries int, callers []string, findings []finding) {
	fmt.Fprintf(out, "\n%d RPCs: %d OK, %d failed.", t.ok+t.failed, t.ok, t.failed)
	for _, name := range names {
		fmt.Fprintf(out, " greeter %s answered %d.", name, t.by[name])
	}
	fmt.Fprintf(out, " p50 %s, p99 %s.\n", strings.TrimSpace(rounded(t.percentile(0.5))), strings.TrimSpace(rounded(t.percentile(0.99))))
	if retries > 0 {
		fmt.Fprintf(out, "%d of them met an instance that was gone and were sent to the other one: provably nobody had processed them.\n", retries)
	}
	if t.failed > 0 {
		fmt.Fprintf(out, "Failed: %s.\n", outcome(t.figures))
	}
	for _, caller := range callers {
		fmt.Fprintf(out, "%s.\n", caller)
	}
	for _, f := range findings {
		sign := "✓"
		if !f.kept {
			sign = "✗ not so:"
		}
		fmt.Fprintf(out, "%s %s\n", sign, f.what)
	}
}
