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
	drawn  int // lines of the picture drawn last
	recent []string
}

func newScreen(out io.Writer, live bool) *screen { return &screen{out: out, live: live} }

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

// second shows one second of the load.
func (s *screen) second(at time.Duration, f figures) {
	if !s.live {
		fmt.Fprintln(s.out, line(at, f))
		return
	}
	picture := s.picture(at, f)
	if s.drawn > 0 {
		fmt.Fprintf(s.out, "\x1b[%dA\x1b[J", s.drawn) // up, and clear below
	}
	fmt.Fprintln(s.out, picture)
	s.drawn = strings.Count(picture, "\n") + 1
}

func line(at time.Duration, f figures) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%4.0fs ", at.Seconds())
	for _, version := range versions {
		fmt.Fprintf(&b, "  %s %4d", version, f.by[version])
	}
	fmt.Fprintf(&b, "   p50 %s  p99 %s   %s", rounded(f.percentile(0.5)), rounded(f.percentile(0.99)), outcome(f))
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
	}
)

// barWidth is how wide the bar of all RPCs is.
const barWidth = 50

func (s *screen) picture(at time.Duration, f figures) string {
	sum := max(1, f.failed())
	for _, n := range f.by {
		sum += n
	}
	rows := []string{bold.Render(fmt.Sprintf("client → sidecar → sidecar → greeter   %3.0f s", at.Seconds()))}
	for i, version := range versions {
		n := f.by[version]
		bar := bars[i%len(bars)].Render(strings.Repeat("█", n*barWidth/sum))
		rows = append(rows, fmt.Sprintf("  greeter %s %5d/s %s", version, n, bar))
	}
	status := good.Render(outcome(f))
	if f.failed() > 0 {
		status = bad.Render(outcome(f))
	}
	rows = append(rows, fmt.Sprintf("  p50 %s   p99 %s   %s", rounded(f.percentile(0.5)), rounded(f.percentile(0.99)), status))
	for _, e := range s.recent {
		rows = append(rows, faint.Render("  • "+e))
	}
	return strings.Join(rows, "\n")
}

func rounded(d time.Duration) string { return fmt.Sprintf("%6.2f ms", d.Seconds()*1000) }

// summarize says how it went.
func summarize(out io.Writer, t totals, retries int) {
	fmt.Fprintf(out, "\n%d RPCs: %d OK, %d failed.", t.ok+t.failed, t.ok, t.failed)
	for _, version := range versions {
		fmt.Fprintf(out, " greeter %s answered %d.", version, t.by[version])
	}
	fmt.Fprintf(out, " p50 %s, p99 %s.\n", strings.TrimSpace(rounded(t.percentile(0.5))), strings.TrimSpace(rounded(t.percentile(0.99))))
	if retries > 0 {
		fmt.Fprintf(out, "%d of them met an instance that was gone and were sent to the other one: provably nobody had processed them.\n", retries)
	}
	if t.failed > 0 {
		fmt.Fprintf(out, "Failed: %s.\n", outcome(t.figures))
	}
}
