package dirkv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/control/kv"
)

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithCancel(t.Context())
}

// show is all that a store has.
func show(t *testing.T, s *Store) (text string) {
	t.Helper()
	list, err := s.List(t.Context(), "")
	must(t, err)
	for _, e := range list {
		entry, err := s.Get(t.Context(), e.Key)
		must(t, err)
		if string(entry.Value) != string(e.Value) || entry.Version != e.Version {
			t.Errorf("Get and List differ: %+v, %+v", entry, e)
		}
		text += e.Key + "=" + string(e.Value) + " "
	}
	return text
}

// A process that ends at any step of a commit has done it whole or not at all.
func TestCrashAtEachStep(t *testing.T) {
	t.Parallel()
	const before, after = "p/a=1 p/b=1 p/c=1 ", "p/a=2 p/c=1 p/n/d=2 "
	whole := 0
	for at := 0; ; at++ {
		dir := t.TempDir()
		crashing, other := open(t, dir), open(t, dir)
		for _, key := range []string{"p/a", "p/b", "p/c"} {
			set(t, other, key, "1")
		}
		steps := 0
		crashing.step = func() error {
			if steps++; steps > at {
				return errors.New("killed")
			}
			return nil
		}
		err := crashing.Commit(t.Context(), kv.Op{Key: "p/a", Value: []byte("2"), Any: true}, kv.Op{Key: "p/b", Any: true}, kv.Op{Key: "p/n/d", Value: []byte("2")})
		got := show(t, other)
		if got != before && got != after || err == nil && got != after {
			t.Fatalf("after a crash at step %d: %q", at, got)
		}
		if got == after {
			whole++
		} else if whole > 0 {
			t.Fatalf("done at step %d, not at %d", at-1, at)
		}
		versions, listErr := other.List(t.Context(), "")
		must(t, listErr)
		set(t, other, "q", "1")
		if again := show(t, other); again != got+"q=1 " {
			t.Fatalf("after a crash at step %d and another commit: %q, before it %q", at, again, got)
		}
		for _, e := range versions {
			if now, err := other.Get(t.Context(), e.Key); err != nil || now.Version != e.Version {
				t.Errorf("%s has version %d, %v, and had %d", e.Key, now.Version, err, e.Version)
			}
		}
		if left, err := os.ReadDir(other.own(newDir)); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if err == nil {
			if at < 5 || whole < 3 {
				t.Fatalf("%d steps, done from the last %d on", at, whole)
			}
			return
		}
	}
}

// childVariable names the folder that this program is to write in as a process of its own.
const childVariable = "DIRKV_TEST_CHILD"

// child holds a lock, and commits until it is killed.
func child(dir string) {
	s, err := Open(dir, Options{})
	if err != nil {
		panic(err)
	}
	session, err := s.Session(context.Background(), kv.SessionOptions{Name: "child"})
	if err != nil {
		panic(err)
	}
	if got, err := session.TryLock(context.Background(), "leader", []byte("child")); !got || err != nil {
		panic(fmt.Sprint(got, err))
	}
	if err := session.Put(context.Background(), "status", []byte("child")); err != nil {
		panic(err)
	}
	for n := 1; ; n++ {
		var ops []kv.Op
		for _, key := range []string{"p/a", "p/b", "p/c"} {
			ops = append(ops, kv.Op{Key: key, Value: []byte(strconv.Itoa(n)), Any: true})
		}
		if err := s.Commit(context.Background(), ops...); err != nil {
			panic(err)
		}
	}
}

func TestKilledProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	next, err := s.Session(t.Context(), kv.SessionOptions{})
	must(t, err)
	defer func() { must(t, next.Close(context.Background())) }()
	var slowest time.Duration
	for round := range 3 {
		program, err := os.Executable()
		must(t, err)
		cmd := exec.Command(program)
		cmd.Env = append(os.Environ(), childVariable+"="+dir)
		must(t, cmd.Start())
		defer func() { _ = cmd.Process.Kill() }()
		for n := 0; n < 2+round; { // until it is at work
			entry, err := s.Get(t.Context(), "p/a")
			if err == nil {
				n, _ = strconv.Atoi(string(entry.Value))
			}
			if err != nil && !errors.Is(err, kv.ErrNotFound) {
				t.Fatal(err)
			}
		}
		if got, err := next.TryLock(t.Context(), "leader", nil); got || err != nil {
			t.Fatalf("taken from a process that lives: %v, %v", got, err)
		}
		time.Sleep(time.Duration(round) * 3100 * time.Microsecond)
		must(t, cmd.Process.Kill())
		killed := time.Now()
		_ = cmd.Wait()
		for got := false; !got; {
			if got, err = next.TryLock(t.Context(), "leader", []byte("next")); err != nil {
				t.Fatal(err)
			}
		}
		slowest = max(slowest, time.Since(killed))
		list, err := s.List(t.Context(), "p/")
		must(t, err)
		if len(list) != 3 || string(list[0].Value) != string(list[1].Value) || string(list[0].Value) != string(list[2].Value) {
			t.Errorf("half a commit: %+v", list)
		}
		if _, err := s.Get(t.Context(), "status"); !errors.Is(err, kv.ErrNotFound) {
			t.Errorf("what went with the process: %v", err)
		}
		must(t, next.Unlock(t.Context(), "leader"))
		must(t, s.Commit(t.Context(), kv.Op{Key: "p/a", Any: true}, kv.Op{Key: "p/b", Any: true}, kv.Op{Key: "p/c", Any: true}))
	}
	t.Logf("a killed process's lock was taken after %v at most", slowest)
	if slowest > time.Second {
		t.Error("that is too late")
	}
}

// Nobody asks for the lock: who watches learns all the same that the process is gone.
func TestKilledProcessIsNoticed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	ctx, cancel := contextOf(t)
	states, ended := make(chan kv.State, 1000), make(chan struct{})
	go func() {
		defer close(ended)
		s.Watch(ctx, "leader", func(state kv.State) { states <- state })
	}()
	program, err := os.Executable()
	must(t, err)
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), childVariable+"="+dir)
	must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill() }()
	for state := range states {
		if len(state.Entries) == 1 {
			break
		}
	}
	must(t, cmd.Process.Kill())
	killed := time.Now()
	_ = cmd.Wait()
	for state := range states {
		if len(state.Entries) == 0 {
			break
		}
	}
	took := time.Since(killed)
	t.Logf("noticed %v after", took)
	if took > 5*time.Second {
		t.Error("that is too late")
	}
	cancel()
	<-ended
	if left, _ := filepath.Glob(s.own(sessionsDir) + "/*"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
