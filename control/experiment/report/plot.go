package report

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// All plots have the same size, in the SVG's own unit.
const (
	plotWidth  = 640.0
	plotLeft   = 84.0
	plotRight  = plotWidth - 12
	plotTop    = 10.0
	plotBottom = 170.0
	// rowHeight is that of one variant's histogram.
	rowHeight = 64.0
	// plotMost is how many points of a series are drawn.
	plotMost = 400
)

// tick is a mark on an axis. It is at a whole tenth of a unit, as text.
type tick struct{ At, Text, Anchor string }

// intervalPlot shows how a difference and its interval came about.
type intervalPlot struct {
	Label, Clip, Summary string
	Band, Line, Zero     string
	LastX, LastY         string
	X, Y                 []tick
}

// plotIntervals draws a comparison's series; false: there is nothing to draw.
func plotIntervals(k Kind, c *Comparison) (intervalPlot, bool) {
	var points []Point
	for _, p := range c.Series {
		if drawable(p.Difference) && drawable(p.Interval.Low) && drawable(p.Interval.High) {
			points = append(points, p)
		}
	}
	if len(points) < 2 {
		return intervalPlot{}, false
	}
	points = thinned(points)
	first, last := points[0].Time, points[len(points)-1].Time
	if !first.Before(last) {
		return intervalPlot{}, false
	}
	// What is far out at the beginning, when little was known, is cut off.
	low, high := 0.0, 0.0
	for _, p := range points[len(points)/4:] {
		low, high = min(low, float64(p.Interval.Low)), max(high, float64(p.Interval.High))
	}
	low, high = low-0.08*(high-low), high+0.08*(high-low)
	if !(high-low > leastDrawn) {
		return intervalPlot{}, false
	}
	x := func(t time.Time) float64 {
		return plotLeft + float64(t.Sub(first))/float64(last.Sub(first))*(plotRight-plotLeft)
	}
	y := func(v float64) float64 {
		return min(max(plotBottom-(v-low)/(high-low)*(plotBottom-plotTop), -1000), 1000)
	}
	var line, upper, lower path
	for i, p := range points {
		line.to(x(p.Time), y(float64(p.Difference)))
		upper.to(x(p.Time), y(float64(p.Interval.High)))
		back := points[len(points)-1-i]
		lower.to(x(back.Time), y(float64(back.Interval.Low)))
	}
	plot := intervalPlot{
		Line: line.String(), Band: upper.String() + " L" + strings.TrimPrefix(lower.String(), "M") + " Z", Zero: place(y(0)),
		LastX: place(x(last)), LastY: place(y(float64(points[len(points)-1].Difference))),
		Summary: "difference " + difference(k, float64(c.Difference)) + ", interval " + interval(c.Interval, func(v float64) string { return difference(k, v) }),
	}
	for _, v := range niceTicks(low, high) {
		plot.Y = append(plot.Y, tick{At: place(y(v)), Text: difference(k, v)})
	}
	layout := "2 Jan 15:04"
	switch span := last.Sub(first); {
	case span > 4*24*time.Hour:
		layout = "2 Jan"
	case span < 10*time.Minute:
		layout = "15:04:05"
	}
	for i, anchor := range []string{"start", "middle", "end"} {
		t := first.Add(last.Sub(first) / 2 * time.Duration(i))
		plot.X = append(plot.X, tick{At: place(x(t)), Text: t.UTC().Format(layout), Anchor: anchor})
	}
	return plot, true
}

// histogramPlot shows how a variant's units are distributed.
type histogramPlot struct {
	Variant, Name, Bars, Summary string
	Mean                         string // empty: it is not known
	Control                      bool
	X                            []tick // of the last one alone
}

// plotHistograms draws a measure's distributions, one below the other on the same axis.
func plotHistograms(m *Measure) []histogramPlot {
	low, high, most := math.Inf(1), math.Inf(-1), 0.0
	part := func(v *Moments, n uint64) float64 { return float64(n) / float64(v.Units) / width(v) }
	drawn := func(v *Moments) bool {
		return v.Units > 0 && len(v.Histogram) > 0 && len(v.Histogram) <= plotMost && drawable(v.Low) && drawable(v.High) && width(v) > leastDrawn
	}
	for i := range m.Variants {
		if v := &m.Variants[i]; drawn(v) {
			low, high = min(low, float64(v.Low)), max(high, float64(v.High))
			for _, n := range v.Histogram {
				most = max(most, part(v, n))
			}
		}
	}
	if !(high > low) || !(most > 0) {
		return nil
	}
	x := func(v float64) float64 {
		return min(max(plotLeft+(v-low)/(high-low)*(plotRight-plotLeft), plotLeft), plotRight)
	}
	var plots []histogramPlot
	for i := range m.Variants {
		v := &m.Variants[i]
		if !drawn(v) {
			continue
		}
		var bars strings.Builder
		for k, n := range v.Histogram {
			if n == 0 {
				continue
			}
			left, right := x(float64(v.Low)+float64(k)*width(v)), x(float64(v.Low)+float64(k+1)*width(v))
			top := rowHeight - part(v, n)/most*(rowHeight-8)
			fmt.Fprintf(&bars, "M%s %sV%sH%sV%sZ", place(left), place(rowHeight), place(top), place(max(right-1, left+0.5)), place(rowHeight))
		}
		plots = append(plots, histogramPlot{
			Variant: printable(v.Variant), Name: short(printable(v.Variant)), Control: i == 0, Bars: bars.String(),
			Summary: "mean " + value(m.Kind, float64(v.Mean)) + ", standard deviation " + value(m.Kind, float64(v.Deviation)),
		})
		if drawable(v.Mean) {
			plots[len(plots)-1].Mean = place(x(float64(v.Mean)))
		}
	}
	if len(plots) > 0 {
		end := &plots[len(plots)-1]
		for _, v := range niceTicks(low, high) {
			end.X = append(end.X, tick{At: place(x(v)), Text: value(m.Kind, v), Anchor: "middle"})
		}
	}
	return plots
}

// What is beyond mostDrawn, or differs by less than leastDrawn, cannot be worked with on a
// plot without it becoming infinite.
const (
	mostDrawn  = 1e100
	leastDrawn = 1e-100
)

func drawable(n Number) bool { return math.Abs(float64(n)) <= mostDrawn }

// short cuts a name off where it would not fit beside a plot.
func short(name string) string {
	const most = 13
	if r := []rune(name); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return name
}

// width is that of a histogram's bins.
func width(v *Moments) float64 {
	return (float64(v.High) - float64(v.Low)) / float64(len(v.Histogram))
}

// thinned leaves points out where they are more than can be seen; the last one stays.
func thinned(points []Point) []Point {
	step := (len(points) + plotMost - 1) / plotMost
	var list []Point
	for i := (len(points) - 1) % step; i < len(points); i += step {
		list = append(list, points[i])
	}
	return list
}

// niceTicks returns round numbers between two.
func niceTicks(low, high float64) []float64 {
	step := math.Pow(10, math.Floor(math.Log10((high-low)/4)))
	for _, times := range []float64{1, 2, 5, 10} {
		if (high-low)/(step*times) <= 5 {
			step *= times
			break
		}
	}
	var list []float64
	for k := math.Ceil(low / step); k*step <= high && len(list) < 12; k++ {
		list = append(list, k*step+0) // never -0
	}
	return list
}

// path is a line in SVG.
type path struct{ strings.Builder }

func (p *path) to(x, y float64) {
	if p.Len() == 0 {
		p.WriteByte('M')
	} else {
		p.WriteByte('L')
	}
	p.WriteString(place(x) + " " + place(y))
}

// place writes a coordinate.
func place(v float64) string { return fmt.Sprintf("%.1f", v) }
