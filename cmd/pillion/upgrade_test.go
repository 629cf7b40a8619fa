package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/cmd/pillion/handover"
)

// replaced notes what an upgrade does to a sidecar.
type replaced struct {
	leaves                     error // Stay's answer
	onStay                     func()
	stayed, resumed, succeeded atomic.Int64
}

func (*replaced) Estate() handover.Estate { return handover.Estate{} }
func (r *replaced) Stay() error {
	r.stayed.Add(1)
	if r.onStay != nil {
		r.onStay()
	}
	return r.leaves
}
func (r *replaced) Resume()                  { r.resumed.Add(1) }
func (r *replaced) Succeeded(func(int) bool) { r.succeeded.Add(1) }

func TestOneUpgradeAtATime(t *testing.T) {
	t.Parallel()
	var u upgrade
	if err := u.begin(); err != nil || !u.serving() {
		t.Fatalf("the first: %v", err)
	}
	if err := u.begin(); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("during the first: %v", err)
	}
	u.set(serving)
	if err := u.begin(); err != nil {
		t.Errorf("after one that failed: %v", err)
	}
	u.set(succeeded)
	if err := u.begin(); err == nil || !strings.Contains(err.Error(), "taken over") || u.serving() {
		t.Errorf("after one that succeeded: %v", err)
	}
}

func TestWhoMayBeReplaced(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pid                 int
		bySystemd, notifies bool
		says                string
	}{
		{1, false, false, "a container ends with that"},
		{2, true, false, "Type=notify"},
		{2, true, true, ""},
		{2, false, false, ""},
		{2, false, true, ""},
	} {
		err := replaceableProcess(c.pid, c.bySystemd, c.notifies)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%+v: got %v", c, err)
		}
	}
}

// A successor that fails before it is ready has cost nothing, and one that fails
// later gives back what was let go of for it.
func TestAFailedUpgradeIsUndone(t *testing.T) {
	for name, c := range map[string]struct {
		script          string
		stayed, resumed int64
	}{
		"before it is ready": {"exit 3", 0, 0},
		// It hears what there is to take over, says that it is ready, and ends.
		"after": {`dd bs=65536 count=1 <&3 >/dev/null 2>&1; printf '{"say":"ready"}' >&3; exit 3`, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "successor")
			if err := os.WriteFile(path, []byte("#!/bin/sh\n"+c.script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			was := startedAs
			startedAs = path
			defer func() { startedAs = was }()
			sidecar := &replaced{}
			u := &upgrade{logger: slog.New(slog.DiscardHandler), sidecar: sidecar, timeout: time.Minute}
			if err := u.begin(); err != nil {
				t.Fatal(err)
			}
			u.run(t.Context(), func() string { return "" })
			if got := sidecar.stayed.Load(); got != c.stayed {
				t.Errorf("stayed %d times, want %d", got, c.stayed)
			}
			if got := sidecar.resumed.Load(); got != c.resumed {
				t.Errorf("resumed %d times, want %d", got, c.resumed)
			}
			if sidecar.succeeded.Load() != 0 || !u.serving() {
				t.Error("it counts as succeeded")
			}
			if err := u.begin(); err != nil {
				t.Errorf("another one: %v", err)
			}
		})
	}
}

// SIGTERM while the new process is about to serve ends that one, and gives back what
// was let go of for it; one that comes before has nothing let go of.
func TestSignalDuringAnUpgrade(t *testing.T) {
	for name, leaves := range map[string]error{
		"it stays until it is known":      nil,
		"one that drains does not resume": errors.New("it drains"),
	} {
		t.Run(name, func(t *testing.T) {
			// It says that it is ready, and never that it has begun.
			path := filepath.Join(t.TempDir(), "successor")
			script := `#!/bin/sh
dd bs=65536 count=1 <&3 >/dev/null 2>&1; printf '{"say":"ready"}' >&3; exec sleep 1000
`
			if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			was := startedAs
			startedAs = path
			defer func() { startedAs = was }()
			ctx, signal := context.WithCancel(t.Context())
			defer signal()
			sidecar := &replaced{leaves: leaves, onStay: signal}
			u := &upgrade{logger: slog.New(slog.DiscardHandler), sidecar: sidecar, timeout: time.Minute}
			if err := u.begin(); err != nil {
				t.Fatal(err)
			}
			u.run(ctx, func() string {
				t.Error("the service manager is told that it goes on")
				return ""
			})
			want := int64(1)
			if leaves != nil {
				want = 0
			}
			if got := sidecar.resumed.Load(); got != want || sidecar.succeeded.Load() != 0 || !u.serving() {
				t.Errorf("resumed %d times, want %d; succeeded %d times", got, want, sidecar.succeeded.Load())
			}
		})
	}
}

func TestSelf(t *testing.T) {
	t.Parallel()
	command, err := self()
	if err != nil || !filepath.IsAbs(command.Path) || len(command.Args) == 0 {
		t.Errorf("%+v, %v", command, err)
	}
	if _, err := os.Stat(command.Path); errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
