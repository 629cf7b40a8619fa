package soak

import (
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// record is what was measured.
type record struct{ samples []sample }

// The plots, by their files.
const (
	memoryPlot = "memory.svg"
	countsPlot = "counts.svg"
	rpcsPlot   = "rpcs.svg"
)

// columns are what a sample holds, as it is written and drawn.
var columns = []struct {
	name string
	plot string
	of   func(sample) float64
}{
	{"resident_bytes", memoryPlot, func(s sample) float64 { return s.Resident }},
	{"heap_bytes", memoryPlot, func(s sample) float64 { return s.Heap }},
	{"buffered_bytes", memoryPlot, func(s sample) float64 { return s.Buffered }},
	{"goroutines", countsPlot, func(s sample) float64 { return s.Goroutines }},
	{"open_files", countsPlot, func(s sample) float64 { return s.FDs }},
	{"downstream_connections", countsPlot, func(s sample) float64 { return s.Downstream }},
	{"upstream_connections", countsPlot, func(s sample) float64 { return s.Upstream }},
	{"rpcs_in_flight", rpcsPlot, func(s sample) float64 { return s.InFlight }},
}

// series is the memory of a process between two times.
func (r *record) series(process string, from, to time.Duration) (resident, heap []float64) {
	for _, s := range r.samples {
		if s.Process == process && s.At >= from && s.At <= to {
			resident = append(resident, s.Resident)
			heap = append(heap, s.Heap)
		}
	}

	return resident, heap
}

// write writes all that was measured as a table, and draws it.
func (r *record) write(t testing.TB, folder string) {
	t.Helper()

	if err := r.table(filepath.Join(folder, "soak.csv")); err != nil {
		t.Errorf("the table: %v", err)
	}
	for _, name := range []string{memoryPlot, countsPlot, rpcsPlot} {
		if err := r.draw(folder, name); err != nil {
			t.Errorf("the plot: %v", err)
		}
	}
}

func (r *record) table(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	w := csv.NewWriter(file)
	head := []string{"seconds", "process"}
	for _, c := range columns {
		head = append(head, c.name)
	}
	_ = w.Write(head)
	for _, s := range r.samples {
		line := []string{fmt.Sprintf("%.1f", s.At.Seconds()), s.Process}
		for _, c := range columns {
			line = append(line, fmt.Sprintf("%.0f", c.of(s)))
		}
		_ = w.Write(line)
	}
	w.Flush()

	return w.Error()
}

// draw draws the columns of a plot, one line for each of each process.
func (r *record) draw(folder, name string) error {
	p := plot.New()
	p.X.Label.Text = "seconds"
	p.Y.Min = 0
	if name == memoryPlot {
		p.Y.Label.Text = "MiB"
	}
	p.Legend.Top = true
	p.Legend.Left = true
	p.Add(plotter.NewGrid())

	var processes []string
	for _, s := range r.samples {
		if !slices.Contains(processes, s.Process) {
			processes = append(processes, s.Process)
		}
	}
	for i, process := range processes {
		dash := 0
		for _, c := range columns {
			if c.plot != name {
				continue
			}
			var points plotter.XYs
			for _, s := range r.samples {
				if s.Process != process {
					continue
				}
				y := c.of(s)
				if name == memoryPlot {
					y /= 1 << 20
				}
				points = append(points, plotter.XY{X: s.At.Seconds(), Y: y})
			}
			line, err := plotter.NewLine(points)
			if err != nil {
				return err
			}
			line.Color = plotutil.Color(i)
			line.Dashes = plotutil.Dashes(dash)
			dash++
			p.Add(line)
			p.Legend.Add(process+": "+c.name, line)
		}
	}

	p.Y.Max *= 1.4 // room for the legend

	return p.Save(30*vg.Centimeter, 18*vg.Centimeter, filepath.Join(folder, name))
}
