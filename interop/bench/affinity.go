package main

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// placement says on which cores the proxy and everything else run.
type placement struct {
	// proxy and load are core numbers; both are anyCore where nothing is pinned.
	proxy, load int
}

// anyCore leaves a process to the scheduler.
const anyCore = -1

var (
	unpinned = placement{proxy: anyCore, load: anyCore}

	errOneCore = errors.New("the pinned setting needs two cores, one for the proxy and one for the load, but this process may use just one; run with -settings two")
)

// pinned gives the first core that this process may use to the proxy alone,
// and the next to the load.
func pinned() (placement, error) {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return placement{}, fmt.Errorf("cores: reading which ones may be used: %w", err)
	}
	var cores []int
	for i := range len(allowed) * 64 {
		if allowed.IsSet(i) {
			cores = append(cores, i)
		}
	}
	if len(cores) < 2 {
		return placement{}, errOneCore
	}
	return placement{proxy: cores[0], load: cores[1]}, nil
}

// onCore runs start, which starts a child process, so that the child runs on
// the core only. A child inherits the affinity of the thread that forks it.
func onCore(core int, start func() error) error {
	if core == anyCore {
		return start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, only unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("cores: reading which ones may be used: %w", err)
	}
	only.Set(core)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return fmt.Errorf("cores: pinning to core %d: %w", core, err)
	}
	err := start()
	if e := unix.SchedSetaffinity(0, &before); e != nil {
		err = errors.Join(err, fmt.Errorf("cores: unpinning from core %d: %w", core, e))
	}
	return err
}
