package dirkv

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/kvtest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		child(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, Options{})
	must(t, err)
	return s
}

func set(t testing.TB, s *Store, key, value string) {
	t.Helper()
	must(t, s.Commit(t.Context(), kv.Op{Key: key, Value: []byte(value), Any: true}))
}

func TestKeepsWhatStoresKeep(t *testing.T) {
	t.Parallel()
	kvtest.Run(t, func(t *testing.T) kvtest.Rig {
		dir := filepath.Join(t.TempDir(), "made", "at once")
		b := open(t, dir)
		link := filepath.Join(t.TempDir(), "link")
		must(t, os.Symlink(dir, link))
		a := open(t, link)
		return kvtest.Rig{
			A: a, B: b, Expires: 3 * time.Second,
			Lose: func(t *testing.T, lost kv.Session) {
				id := lost.(*session).id
				for gone := false; !gone; {
					old := time.Now().Add(-time.Hour)
					_ = os.Chtimes(b.sessionPath(id), old, old)
					must(t, b.change(t.Context(), func(*change) error { return nil }))
					_, err := os.Lstat(b.sessionPath(id))
					gone = err != nil
				}
			},
			Break: func(t *testing.T) func() {
				must(t, os.Remove(link))
				return func() { must(t, os.Symlink(dir, link)) }
			},
		}
	})
}

func TestFilesAreForPeople(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(t.TempDir(), dir))
	s := open(t, dir)
	const key, text = "pillion/v1/services/greeter/policy/timeouts", "{\n  \"revision\": 1\n}\n"
	set(t, s, key, text)
	path := filepath.Join(dir, "pillion/v1/services/greeter/policy/timeouts.json")
	content, err := os.ReadFile(path)
	must(t, err)
	if string(content) != text {
		t.Errorf("the file holds %q", content)
	}

	states := make(chan kv.State, 100)
	ctx, cancel := contextOf(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Watch(ctx, "pillion/v1/services/greeter/", func(state kv.State) { states <- state })
	}()
	first := <-states
	must(t, os.WriteFile(path, []byte("{}"), 0o600)) // as a person does
	for state := range states {
		if string(state.Entries[0].Value) == "{}" {
			if state.Entries[0].Version == first.Entries[0].Version {
				t.Error("the version is the same")
			}
			break
		}
	}
	err = s.Commit(t.Context(), kv.Op{Key: key, Value: []byte("x"), Version: first.Entries[0].Version})
	if _, ok := err.(*kv.ConflictError); !ok {
		t.Errorf("a person's change was overwritten: %v", err)
	}
	start := time.Now()
	must(t, os.MkdirAll(filepath.Join(dir, "pillion/v1/services/greeter/canary"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "pillion/v1/services/greeter/canary/next.json"), []byte("{}"), 0o600))
	for state := range states {
		if len(state.Entries) == 2 {
			break
		}
	}
	if took := time.Since(start); took > 1500*time.Millisecond {
		t.Errorf("seen %v after, not told of it", took)
	}
	cancel()
	<-ended
}
