package experiment

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// A restart in peace loses nothing, and nothing counts twice; one that is killed loses ten
// seconds at most.
func TestRestartGoesOn(t *testing.T) {
	play(t, func(t *testing.T, w *world) {
		dir := t.TempDir()
		s := w.sidecar(Options{Dir: dir, Owner: "a"})
		other := w.sidecar(Options{Dir: dir, Owner: "b"}) // shares the folder
		w.elect(LeadOptions{})
		w.running(document(t, "checkout"))
		people := w.people(200)
		for range 3 {
			w.visit(people, 500, 0)
			w.pass(time.Second)
			s.stop()
			s.start()
			s.set = nil
			w.pass(4 * time.Second)
		}
		if got := pooledRPCs(w); got != 1500 {
			t.Errorf("%d of 1500 RPCs count", got)
		}
		w.visit(people, 500, 0)
		w.pass(saveEvery + time.Second)
		w.visit(people, 500, 0)
		s.kill()
		killed := s.agent
		s.start()
		s.set = nil
		w.elect(LeadOptions{}) // who knew what was lost is gone too
		w.pass(4 * time.Second)
		if got := pooledRPCs(w); got < 2000 || got > 2500-200 {
			t.Errorf("%d RPCs count after a kill", got)
		}
		// The process that was thought dead writes nothing over what goes on.
		w.visit(people, 500, 0)
		w.pass(saveEvery + time.Second)
		killed.Close()
		s.stop()
		s.start()
		s.set = nil
		w.elect(LeadOptions{})
		w.pass(4 * time.Second)
		if got := pooledRPCs(w); got < 2500 || got > 3000-200 {
			t.Errorf("%d RPCs count after a late end of the one before", got)
		}
		_ = other
	})
}

// The elected sidecar keeps what sidecars counted that are gone for good.
func TestElectedSidecarIsRestarted(t *testing.T) {
	play(t, func(t *testing.T, w *world) {
		dir := t.TempDir()
		for range 3 {
			w.sidecar(Options{})
		}
		o := LeadOptions{Dir: dir, Owner: "a"}
		w.elect(o)
		w.running(document(t, "checkout"))
		w.visit(w.people(300), 3000, 0.1)
		w.pass(5 * time.Second)
		before := w.results("checkout")
		w.sidecars[1].stop()
		w.elect(o)
		w.pass(5 * time.Second)
		after := w.results("checkout")
		sameMoments(t, before, after)
		if after.GetSidecars() != 3 || len(after.GetSeries()) < len(before.GetSeries()) {
			t.Errorf("%d sidecars and %d points, of %d", after.GetSidecars(), len(after.GetSeries()), len(before.GetSeries()))
		}
	})
}

// What is over is kept no longer, and what was kept of another run is not taken.
func TestFilesOfRunsThatAreOver(t *testing.T) {
	play(t, func(t *testing.T, w *world) {
		dir := t.TempDir()
		s := w.sidecar(Options{Dir: dir})
		w.elect(LeadOptions{Dir: dir})
		w.running(document(t, "checkout"))
		w.visit(w.people(50), 200, 0)
		w.pass(2 * saveEvery)
		if n := len(filesIn(t, dir)); n != 2 {
			t.Fatalf("%d files", n)
		}
		s.stop()
		w.ask("checkout", 7, 0)
		w.ask("checkout", 1, 1)
		s.start()
		s.set = nil
		w.pass(4 * time.Second)
		if r := w.results("checkout"); r.GetState().GetRun() != 2 || r.GetVariants()[0].GetUnits() != 0 {
			t.Errorf("the second run begins with %v", r)
		}
		w.visit(w.people(50), 200, 0)
		w.pass(2 * saveEvery)
		w.ask("checkout", 7, 0)
		w.pass(2 * saveEvery)
		if files := filesIn(t, dir); len(files) != 0 {
			t.Errorf("%v stays", files)
		}
	})
}

func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// A file that is damaged, wherever, is not believed, and the counts begin anew.
func TestFilesThatAreDamaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := document(t, "checkout")
	write := func() (*Agent, *run, []byte) {
		a := NewAgent(Options{Dir: dir})
		r := newRun(e, 1, 4711)
		a.load(r)
		for unit := range uint64(30) {
			r.counter.count(0, &telemetry.Outcome{Unit: unit + 1, Took: time.Second})
		}
		if err := a.write(r, r.counter, r.header(), r.lastWriter); err != nil {
			t.Fatal(err)
		}
		good, err := os.ReadFile(a.path(r))
		if err != nil {
			t.Fatal(err)
		}
		return a, r, good
	}
	a, r, good := write()
	defer a.Close()
	read := func(data []byte) int {
		if err := os.WriteFile(a.path(r), data, 0o600); err != nil {
			t.Fatal(err)
		}
		again := newRun(e, 1, 4711)
		a.load(again)
		return len(everyUnit(again.counter))
	}
	if n := read(good); n != 30 {
		t.Fatalf("%d of 30 units are read", n)
	}
	for cut := 0; cut < len(good); cut += 5 {
		if n := read(good[:cut]); n != 0 {
			t.Fatalf("%d units are read of the first %d bytes", n, cut)
		}
	}
	for range 200 {
		bad := append([]byte{}, good...)
		bad[rand.IntN(len(bad))] ^= byte(1 + rand.IntN(255))
		if n := read(bad); n != 0 {
			t.Fatalf("%d units are read of a file with one byte changed", n)
		}
	}
	if n := read(append(append([]byte{}, good...), 0)); n != 0 {
		t.Fatalf("%d units are read of a file that goes on", n)
	}
}

// However a file is made, reading it ends in an error or in units that can be.
func FuzzFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "file")
	measures := compileMeasures(document(f, "checkout"))
	head := &meshv1.KeptExperiment{Name: "checkout", Run: 1, Sources: 1}
	if err := writeFile(path, head, func(int) *meshv1.KeptSource {
		return &meshv1.KeptSource{Counts: &meshv1.ExperimentCounts{Epoch: 1, Units: []*meshv1.UnitCounts{{Unit: 7, Measures: []*meshv1.MeasureCounts{{Count: 1, Sum: 1}, {}}}}}}
	}); err != nil {
		f.Fatal(err)
	}
	good, _ := os.ReadFile(path)
	f.Add(good)
	f.Add([]byte(fileMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		p := newPool(measures, []int{5000, 5000}, 100)
		err := readFile(path, func(h *meshv1.KeptExperiment) error { return goodPoints(h.GetSeries(), p) }, p.restore)
		if err == nil && p.pooled > 100*len(p.sources) {
			t.Errorf("%d units are believed", p.pooled)
		}
		if err != nil && errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
}
