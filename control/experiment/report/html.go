package report

import (
	_ "embed"
	"html/template"
	"io"
)

//go:embed page.html.tmpl
var pageText string

// pageTemplate escapes all that it is given, for the place where it stands.
var pageTemplate = template.Must(template.New("page").Parse(pageText))

// page is what the page says, all of it as it is written.
type page struct {
	Title, State, Counted, Method string
	Notes, Progress               []string
	Variants                      []pageVariant
	Measures                      []pageMeasure
}

type pageVariant struct {
	Name, Units, Share, Weight string
}

type pageMeasure struct {
	Name, About string
	Rows        []pageRow
	Intervals   []intervalPlot
	Histograms  []histogramPlot
}

type pageRow struct {
	Variant, Units, Mean, Difference, Relative, Interval, P, Verdict string
	Class                                                            string
	Control                                                          bool
}

// WriteHTML writes the analysis as a page that needs nothing else: no script, no style and
// no picture from elsewhere.
func (a *Analysis) WriteHTML(w io.Writer) error { return pageTemplate.Execute(w, a.page()) }

func (a *Analysis) page() page {
	p := page{
		Title: a.title(), State: a.state(), Counted: a.counted(), Method: a.method(),
		Notes: a.Notes, Progress: a.progress(),
	}
	for _, v := range a.Variants {
		p.Variants = append(p.Variants, pageVariant{printable(v.Name) + control(v.Control), count(v.Units), percent(float64(v.Share)), percent(float64(v.Weight))})
	}
	for number, m := range a.Measures {
		of := pageMeasure{Name: printable(m.Name), About: m.about()}
		for i, v := range m.Variants {
			row := pageRow{Variant: printable(v.Variant) + control(i == 0), Units: count(v.Units), Mean: value(m.Kind, float64(v.Mean)), Control: i == 0}
			if i > 0 {
				c := m.Comparisons[i-1]
				row.Difference, row.Relative = difference(m.Kind, float64(c.Difference)), relative(float64(c.Relative))
				row.Interval = interval(c.RelativeInterval, relative)
				row.P, row.Verdict, row.Class = pValue(float64(c.Corrected)), verdict(c.Verdict, m.MinEffect), string(c.Verdict)
				if plot, ok := plotIntervals(m.Kind, &c); ok {
					plot.Clip = "clip-" + count(uint64(number)) + "-" + count(uint64(i))
					plot.Label = printable(v.Variant) + " less " + printable(m.Variants[0].Variant)
					of.Intervals = append(of.Intervals, plot)
				}
			}
			of.Rows = append(of.Rows, row)
		}
		of.Histograms = plotHistograms(&m)
		p.Measures = append(p.Measures, of)
	}
	return p
}

// about says what a measure is.
func (m *Measure) about() string {
	what := map[Kind]string{
		Success: "the RPCs that succeed", Latency: "how long RPCs take", Reported: "what the app reports",
	}[m.Kind]
	per := map[bool]string{true: "summed up for each unit", false: "as a mean for each unit"}[m.PerUnit == "sum"]
	return what + ", " + per + "; " + m.Better + " is better; from " + percent(m.MinEffect) + " on a difference matters"
}
