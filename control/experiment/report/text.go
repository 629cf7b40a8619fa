package report

import (
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/lipgloss/table"

	"github.com/pillion-proxy/pillion/control/sequential"
)

// textWidth is how long a line of a note is, in characters.
const textWidth = 100

// WriteText writes the analysis for people, as tables.
func (a *Analysis) WriteText(w io.Writer) error {
	r := lipgloss.NewRenderer(w)
	good, bad := r.NewStyle().Foreground(lipgloss.Color("2")), r.NewStyle().Foreground(lipgloss.Color("1"))
	var b strings.Builder
	b.WriteString(a.title())
	if state := a.state(); state != "" {
		b.WriteString(": " + state)
	}
	b.WriteString("\n" + a.counted() + "\n\n")

	variants := newTable(r, "VARIANT", "UNITS", "SHARE", "WEIGHT")
	for _, v := range a.Variants {
		variants.Row(printable(v.Name)+control(v.Control), count(v.Units), percent(float64(v.Share)), percent(float64(v.Weight)))
	}
	b.WriteString(rendered(variants) + "\n")

	measures := newTable(r, "MEASURE", "VARIANT", "UNITS", "MEAN", "DIFFERENCE", "RELATIVE", "INTERVAL", "P", "VERDICT")
	for _, m := range a.Measures {
		for i, v := range m.Variants {
			name, mean := printable(m.Name), value(m.Kind, float64(v.Mean))
			if i == 0 {
				measures.Row(name, printable(v.Variant)+control(true), count(v.Units), mean)
				continue
			}
			c := m.Comparisons[i-1]
			said := verdict(c.Verdict, m.MinEffect)
			switch c.Verdict {
			case Better:
				said = good.Render(said)
			case Worse:
				said = bad.Render(said)
			}
			measures.Row("", printable(v.Variant), count(v.Units), mean,
				difference(m.Kind, float64(c.Difference)), relative(float64(c.Relative)),
				interval(c.RelativeInterval, relative), pValue(float64(c.Corrected)), said)
		}
	}
	b.WriteString(rendered(measures) + "\n")
	b.WriteString(wrapped(a.method()))
	for _, c := range a.progress() {
		b.WriteString(wrapped(c))
	}
	for _, n := range a.Notes {
		b.WriteString(wrapped(n))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// title says what the experiment is.
func (a *Analysis) title() string {
	return fmt.Sprintf("Experiment %s of %s", printable(a.Name), printable(a.Service))
}

// state says where it stands; empty: that is not known.
func (a *Analysis) state() string {
	text := a.Phase
	if !a.Started.IsZero() {
		text += ", began " + at(a.Started)
		if a.Time.After(a.Started) {
			text += ", seen after " + lasting(a.Time.Sub(a.Started))
		}
	}
	return strings.TrimPrefix(text, ", ")
}

// counted says of how many units this is.
func (a *Analysis) counted() string {
	text := count(a.Units) + " units"
	if s := float64(a.Sampled); s > 0 && s < 1 {
		text += " (a sample of " + percent(s) + ")"
	}
	text += fmt.Sprintf(", counted by %d sidecars", a.Sidecars)
	if a.Sidecars == 1 {
		text = strings.TrimSuffix(text, "s")
	}
	if !a.Time.IsZero() {
		text += " up to " + at(a.Time)
	}
	if a.Units == 0 {
		return text
	}
	if a.SampleRatio.Mismatch {
		return text + "; NOT divided as the weights say"
	}
	return text + "; divided as the weights say (" + pEquals(float64(a.SampleRatio.P)) + ")"
}

// method says how far the figures can be trusted.
func (a *Analysis) method() string {
	return fmt.Sprintf("Intervals are of the relative difference. All of them together hold, and all verdicts are right, with a chance of at least %s, however often one looks. P is corrected for %d comparisons.", percent(1-a.FalseAlarm), a.comparisons())
}

func (a *Analysis) comparisons() int {
	n := 0
	for _, m := range a.Measures {
		n += len(m.Comparisons)
	}
	return n
}

// progress says which comparisons have as many units as they need.
func (a *Analysis) progress() []string {
	var list []string
	if a.SampleRatio.Mismatch {
		return nil
	}
	for _, m := range a.Measures {
		for _, c := range m.Comparisons {
			if c.PlannedUnits == 0 || c.Verdict != Open {
				continue
			}
			what := fmt.Sprintf("%s, %s: a difference of %s takes about %s units", printable(m.Name), printable(c.Variant), percent(m.MinEffect), count(c.PlannedUnits))
			if a.Units >= c.PlannedUnits {
				list = append(list, fmt.Sprintf("%s, and there are as many: one of that size would have been found by now with a chance of %s.", what, percent(a.Power)))
			} else {
				list = append(list, fmt.Sprintf("%s, of which there are %s.", what, percent(float64(a.Units)/float64(c.PlannedUnits))))
			}
		}
	}
	return list
}

// WriteText writes the plan for people, as tables.
func (p *Plan) WriteText(w io.Writer) error {
	r := lipgloss.NewRenderer(w)
	var b strings.Builder
	fmt.Fprintf(&b, "Experiment %s of %s\n\n", printable(p.Name), printable(p.Service))
	needs := newTable(r, "MEASURE", "MEAN", "DEVIATION", "VARIANT", "DIFFERENCE", "UNITS", "TAKES", "UNITS, ONE LOOK")
	for _, m := range p.Measures {
		for i, v := range m.Variants {
			name, mean, deviation := printable(m.Name), value(m.Kind, float64(m.Mean)), value(m.Kind, float64(m.Deviation))
			if i > 0 {
				name, mean, deviation = "", "", ""
			}
			needs.Row(name, mean, deviation, printable(v.Variant), percent(m.MinEffect), units(v.Units), p.takes(v.Units), units(v.FixedUnits))
		}
	}
	b.WriteString(rendered(needs) + "\n")
	if p.UnitsPerDay > 0 {
		effects := newTable(r, append([]string{"LEAST DIFFERENCE", "VARIANT"}, dayHeaders()...)...)
		some := false
		for _, m := range p.Measures {
			for _, v := range m.Variants {
				row := []string{printable(m.Name), printable(v.Variant)}
				for _, e := range v.Effects {
					row = append(row, percent(float64(e.Effect)))
				}
				some = some || len(v.Effects) > 0
				effects.Row(row...)
			}
		}
		if some {
			b.WriteString(rendered(effects) + "\n")
		}
	}
	b.WriteString(wrapped(p.summary()))
	for _, n := range p.Notes {
		b.WriteString(wrapped(n))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// summary says it in a sentence.
func (p *Plan) summary() string {
	text := fmt.Sprintf("%s units must take part for each difference to be found with a chance of %s, at a risk of %s that any of %d comparisons claims one where there is none, however often one looks", units(p.Units), percent(p.Power), percent(p.FalseAlarm), p.Comparisons)
	if p.Part < 1 {
		text += "; of all units, " + percent(float64(p.Part)) + " take part"
	}
	if p.Duration > 0 {
		text += fmt.Sprintf("; at %s new units per day that takes %s", digits(p.UnitsPerDay), lasting(p.Duration))
	}
	return text + "."
}

func (p *Plan) takes(n uint64) string {
	if p.UnitsPerDay == 0 || n == 0 {
		return "-"
	}
	return lasting(sequential.Duration(n, p.UnitsPerDay*float64(p.Part)))
}

func units(n uint64) string {
	if n == 0 {
		return "never enough"
	}
	return count(n)
}

func dayHeaders() []string {
	list := make([]string, len(planDays))
	for i, d := range planDays {
		list[i] = fmt.Sprintf("%d DAYS", d)
		if d == 1 {
			list[i] = "1 DAY"
		}
	}
	return list
}

func control(is bool) string {
	if is {
		return " (control)"
	}
	return ""
}

// printable has nothing in a name drive a terminal, wherever the name comes from.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, name)
}

func newTable(r *lipgloss.Renderer, headers ...string) *table.Table {
	header := r.NewStyle().Bold(true)
	return table.New().Border(lipgloss.HiddenBorder()).
		BorderTop(false).BorderBottom(false).BorderLeft(false).BorderRight(false).BorderHeader(false).BorderColumn(false).
		StyleFunc(func(row, _ int) lipgloss.Style {
			style := r.NewStyle().PaddingRight(2)
			if row == table.HeaderRow {
				return style.Inherit(header)
			}
			return style
		}).
		Headers(headers...)
}

// rendered is a table's text, without blanks at the ends of its lines.
func rendered(t *table.Table) string {
	var b strings.Builder
	for line := range strings.Lines(t.Render() + "\n") {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return b.String()
}

// wrapped breaks a sentence into lines.
func wrapped(text string) string {
	var b strings.Builder
	length := 0
	// A number stays with its percent sign.
	for i, word := range strings.Fields(strings.ReplaceAll(text, " %", "\x00%")) {
		n := len([]rune(word))
		switch {
		case i == 0:
		case length+1+n > textWidth:
			b.WriteByte('\n')
			length = 0
		default:
			b.WriteByte(' ')
			length++
		}
		b.WriteString(word)
		length += n
	}
	return strings.ReplaceAll(b.String(), "\x00", " ") + "\n"
}
