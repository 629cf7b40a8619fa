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

// columns are what a sample holds, as it is written and drawn.
var columns = []struct {
	name   string
	memory bool
	of     func(sample) float64
}{
	{"resident_bytes", true, func(s sample) float64 { return s.Resident }},
	{"heap_bytes", true, func(s sample) float64 { return s.Heap }},
	{"buffered_bytes", true, func(s sample) float64 { return s.Buffered }},
	{"goroutines", false, func(s sample) float64 { return s.Goroutines }},
	{"open_files", false, func(s sample) float64 { return s.FDs }},
	{"downstream_connections", false, func(s sample) float64 { return s.Downstream }},
	{"upstream_connections", false, func(s sample) float64 { return s.Upstream }},
	{"rpcs_in_flight", false, func(s sample) float64 { return s.InFlight }},
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
	for _, memory := range []bool{true, false} {
		name := "counts.svg"
		if memory {
			name = "memory.svg"
		}
		if err := r.draw(filepath.Join(folder, name), memory); err != nil {
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

// draw draws the columns of memory, or those that count, one line for each of
// each process.
func (r *record) draw(path string, memory bool) error {
	p := plot.New()
	p.X.Label.Text = "seconds"
	p.Y.Min = 0
	if memory {
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
			if c.memory != memory {
				continue
			}
			var points plotter.XYs
			for _, s := range r.samples {
				if s.Process != process {
					continue
				}
				y := c.of(s)
				if memory {
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

	return p.Save(30*vg.Centimeter, 18*vg.Centimeter, path)
}
