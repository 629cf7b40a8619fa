package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/control/kv"
	agents "github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/registry/consul"
)

// The agent, which is its own server, is killed in the middle of watches and commits, and
// comes back: watches go on, and never go back; no commit is lost that was confirmed, and
// who held a lock holds it still.
func TestConsulRestarts(t *testing.T) {
	t.Parallel()

	agent := agents.Start(t)
	writer, _ := openStore(t, agent, consul.Config{}, nil)
	reader, _ := openStore(t, agent, consul.Config{}, nil)
	watches := []*storeWatch{watchStore(t, writer, "p/"), watchStore(t, reader, "p/"), watchStore(t, reader, "p")}
	session, err := writer.Session(t.Context(), kv.SessionOptions{Name: t.Name(), TTL: 30 * time.Second})
	must(t, err)
	defer func() { must(t, session.Close(context.Background())) }()
	if got, err := session.TryLock(t.Context(), "p/lock", []byte("held")); !got || err != nil {
		t.Fatal(got, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var (
		writing   sync.WaitGroup
		confirmed int
	)
	writing.Go(func() {
		for version := uint64(0); ctx.Err() == nil; {
			err := writer.Commit(ctx, kv.Op{Key: "p/count", Value: []byte(strconv.Itoa(confirmed + 1)), Version: version}, kv.Op{Key: "p/twin", Value: []byte(strconv.Itoa(confirmed + 1)), Any: true})
			// Whether it was done is to be read where the answer was lost.
			entry, readErr := writer.Get(ctx, "p/count")
			if readErr != nil {
				time.Sleep(5 * time.Millisecond)

				continue
			}
			n, _ := strconv.Atoi(string(entry.Value))
			if err == nil && n != confirmed+1 || n < confirmed {
				t.Errorf("%d was confirmed, and there is %d", confirmed+1, n)
			}
			version, confirmed = entry.Version, n
		}
	})
	count := func(s kv.State) int {
		n, _ := strconv.Atoi(valueIn(s, "p/count"))

		return n
	}
	watches[1].await(t, "commits are seen", func(s kv.State) bool { return count(s) >= 10 })
	start := time.Now()
	agent.Kill()
	for _, w := range watches {
		w.await(t, "the watch tells that Consul is away", func(s kv.State) bool { return s.Err != nil && count(s) > 0 })
	}
	away := count(watches[1].all()[len(watches[1].all())-1])
	agent.Start(t)
	t.Logf("Consul was away for %v", time.Since(start).Round(time.Millisecond))
	back := time.Now()
	for _, w := range watches {
		w.await(t, "new commits are seen", func(s kv.State) bool { return s.Err == nil && count(s) > away+5 })
	}
	t.Logf("all watches see new commits %v after it is back", time.Since(back).Round(time.Millisecond))
	cancel()
	writing.Wait()
	entry, err := reader.Get(t.Context(), "p/count")
	must(t, err)
	for _, w := range watches {
		w.await(t, "the last commit is seen", func(s kv.State) bool { return valueIn(s, "p/count") == string(entry.Value) })
		last := 0
		for _, state := range w.all() {
			if n := count(state); n < last {
				t.Errorf("went back from %d to %d", last, n)
			} else {
				last = n
			}
			if valueIn(state, "p/count") != valueIn(state, "p/twin") {
				t.Errorf("half a commit: %+v", state)
			}
		}
	}
	select {
	case <-session.Done():
		t.Error("the session was lost")
	default:
	}
	if entry, err := reader.Get(t.Context(), "p/lock"); err != nil || string(entry.Value) != "held" {
		t.Errorf("the lock: %+v, %v", entry, err)
	}
}

// holderVariable is the address of the agent where this program is to hold a lock as a
// process of its own.
const holderVariable = "PILLION_TEST_HOLD_LOCK_AT"

const takeoverTTL, takeoverDelay = 10 * time.Second, time.Second

// holdLock holds a lock until it is killed.
func holdLock(address string) {
	store, err := consul.NewStore(consul.Config{Address: address}, consul.Deps{})
	if err != nil {
		panic(err)
	}
	session, err := store.Session(context.Background(), kv.SessionOptions{Name: "to be killed", TTL: takeoverTTL, LockDelay: takeoverDelay})
	if err != nil {
		panic(err)
	}
	if got, err := session.TryLock(context.Background(), "p/lock", []byte("killed")); !got || err != nil {
		panic(fmt.Sprint(got, err))
	}
	<-session.Done()
}

// How long it takes until another has the lock of a process that was killed.
func TestKilledHolderOfALock(t *testing.T) {
	t.Parallel()

	agent := agents.Start(t)
	store, _ := openStore(t, agent, consul.Config{}, nil)
	program, err := os.Executable()
	must(t, err)
	holder := exec.Command(program)
	holder.Env = append(os.Environ(), holderVariable+"="+agent.Address)
	holder.Stderr = os.Stderr
	must(t, holder.Start())
	w := watchStore(t, store, "p/lock")
	w.await(t, "the lock is held", func(s kv.State) bool { return valueIn(s, "p/lock") == "killed" })
	next, err := store.Session(t.Context(), kv.SessionOptions{Name: "next"})
	must(t, err)
	defer func() { must(t, next.Close(context.Background())) }()
	if got, err := next.TryLock(t.Context(), "p/lock", []byte("next")); got || err != nil {
		t.Fatalf("taken from a process that lives: %v, %v", got, err)
	}

	must(t, holder.Process.Kill())
	killed := time.Now()
	_ = holder.Wait()
	w.await(t, "the key is gone", func(s kv.State) bool { return valueIn(s, "p/lock") == "-" })
	gone := time.Since(killed)
	for got := false; !got; {
		if got, err = next.TryLock(t.Context(), "p/lock", []byte("next")); err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	taken := time.Since(killed)
	t.Logf("TTL %v, lock delay %v: the killed process's key was gone after %v, and its lock taken after %v", takeoverTTL, takeoverDelay, gone.Round(10*time.Millisecond), taken.Round(10*time.Millisecond))
	if gone < takeoverTTL/2 || taken < gone+takeoverDelay/2 || taken > 3*takeoverTTL+takeoverDelay {
		t.Error("that is not as documented")
	}
}
