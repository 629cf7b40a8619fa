package plan

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/charmbracelet/lipgloss"

	"github.com/pillion-proxy/pillion/control/documents"
)

// maxShown bounds the moves that people are shown; -o json has more.
const maxShown = 50

// Text lays a plan out for people, in colour where out is a terminal.
func Text(out io.Writer, p *Plan) string {
	r := lipgloss.NewRenderer(out)
	colours := map[string]lipgloss.Style{
		"added":   r.NewStyle().Foreground(lipgloss.Color("2")),
		"changed": r.NewStyle().Foreground(lipgloss.Color("3")),
		"deleted": r.NewStyle().Foreground(lipgloss.Color("1")),
	}
	if len(p.Changes) == 0 {
		return "nothing changes\n"
	}
	// What is remembered is what any client has sent, and documents are anybody's files.
	show := documents.Printable
	var b strings.Builder
	for _, c := range p.Changes {
		kind := c.Kind
		if c.Says != "" {
			kind += " (" + c.Says + ")"
		}
		fmt.Fprintf(&b, "%s %s %s: %s%s\n", colours[c.What].Render(c.What), show(kind), r.NewStyle().Bold(true).Render(show(c.Name)), show(c.Concerns), show(sidecars(c.Sidecars)))
		for _, f := range c.Fields {
			switch {
			case f.Before == "" && f.After == "":
				fmt.Fprintf(&b, "    %s\n", show(f.Path))
			case f.Before == "":
				fmt.Fprintf(&b, "  %s %s: %s\n", colours["added"].Render("+"), show(f.Path), show(f.After))
			case f.After == "":
				fmt.Fprintf(&b, "  %s %s: %s\n", colours["deleted"].Render("-"), show(f.Path), show(f.Before))
			default:
				fmt.Fprintf(&b, "  %s %s: %s -> %s\n", colours["changed"].Render("~"), show(f.Path), show(f.Before), show(f.After))
			}
		}
	}
	b.WriteByte('\n')
	switch {
	case p.Replayed == 0:
		b.WriteString("no remembered RPCs were looked at (name sidecars with --admin)\n")
	case p.Moved == 0:
		fmt.Fprintf(&b, "%s looked at: none would fare otherwise\n", rpcs(p.Replayed))
	default:
		fmt.Fprintf(&b, "%s looked at: %d would fare otherwise\n", rpcs(p.Replayed), p.Moved)
	}
	if p.Replayed > 0 && len(p.Unknown) > 0 {
		fmt.Fprintf(&b, "not remembered, because no policy looks at it yet, and so looked at as if they had none: %s\n", show(strings.Join(p.Unknown, ", ")))
	}
	if p.Replayed > 0 && len(p.Hidden) > 0 {
		fmt.Fprintf(&b, "secret by their names, so that no values are remembered, and looked at as if they had others: %s\n", show(strings.Join(p.Hidden, ", ")))
	}
	if p.Unreadable > 0 {
		fmt.Fprintf(&b, "%s could not be looked at\n", rpcs(p.Unreadable))
	}
	for i, m := range p.Moves {
		if i == maxShown {
			fmt.Fprintf(&b, "  and %d more (-o json)\n", len(p.Moves)-i+p.LeftOut)
			break
		}
		from := ""
		if m.Caller != "" {
			from = " from " + show(m.Caller)
		}
		fmt.Fprintf(&b, "  %s to %s %s%s: %s: %s -> %s\n", rpcs(m.RPCs), show(m.Service), show(m.Method), from, m.Aspect, show(cmp.Or(m.Before, "none")), show(cmp.Or(m.After, "none")))
		if len(m.Example) > 0 {
			fmt.Fprintf(&b, "    such as one with %s\n", show(strings.Join(m.Example, ", ")))
		}
	}
	return b.String()
}

func rpcs(n int) string { return counted(n, "RPC") }

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// sidecars says who obeys a document.
func sidecars(of map[string]int) string {
	if of == nil {
		return ""
	}
	n := 0
	var names []string
	for _, service := range slices.Sorted(maps.Keys(of)) {
		n += of[service]
		names = append(names, fmt.Sprintf("%s %d", cmp.Or(service, "clients"), of[service]))
	}
	if n == 0 {
		return "; no sidecar follows the documents of that service now"
	}
	return fmt.Sprintf("; for %s (%s)", counted(n, "sidecar"), strings.Join(names, ", "))
}
