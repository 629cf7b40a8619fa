package network

import (
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
)

// A host's thread may have been any goroutine's before, and becomes any's after: it
// must neither end with the host, since processes that shall end with their parent end
// with the thread that started them, nor stay in the host's namespace.
func TestAHostGivesItsThreadBack(t *testing.T) {
	t.Parallel()

	home := namespace(t)
	n := New(t, 1)
	n.Host(t, "a") // or the test is skipped

	// Enough for some hosts to get a thread that has started a process.
	const count = 20
	var children []*exec.Cmd
	for range count {
		var running sync.WaitGroup
		running.Go(func() {
			child := exec.Command("sleep", "60")
			child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
			if err := child.Start(); err != nil {
				t.Error(err)

				return
			}
			children = append(children, child)
			other := &Network{stop: make(chan struct{}), wires: map[ends]*wire{}}
			other.Host(t, "b")
			other.close()
		})
		running.Wait()
	}

	var others sync.WaitGroup
	for range count {
		others.Go(func() {
			// Locked, so that no two of them look at the same thread.
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if now := namespace(t); now != home {
				t.Errorf("a thread is in %s, the test began in %s", now, home)
			}
		})
	}
	others.Wait()
	for _, child := range children {
		_ = child.Process.Kill()
		_ = child.Wait()
		if by := child.ProcessState.Sys().(syscall.WaitStatus).Signal(); by != syscall.SIGKILL {
			t.Errorf("a process has ended with the thread that started it (%v)", by)
		}
	}
}

// namespace is the network namespace of the present thread.
func namespace(t *testing.T) string {
	t.Helper()

	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}

	return name
}
