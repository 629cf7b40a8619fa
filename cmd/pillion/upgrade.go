package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/cmd/pillion/handover"
	"github.com/pillion-proxy/pillion/cmd/pillion/systemd"
)

// upgrade replaces this process by another one of the same binary and arguments.
//
// It is in one of these states:
//
//	serving    until SIGHUP
//	upgrading  until the successor serves (succeeded), or fails (serving)
//	succeeded  for good: the sidecar drains
type upgrade struct {
	logger  *slog.Logger
	manager *systemd.Manager
	sidecar replaceable
	timeout time.Duration

	mu    sync.Mutex
	state upgradeState
}

type upgradeState int

const (
	serving upgradeState = iota
	upgrading
	succeeded
)

// replaceable is a sidecar, as far as it can be replaced.
type replaceable interface {
	Estate() handover.Estate
	Stay() error
	Resume()
	Succeeded(took func(n int) bool)
}

// serving says whether this process is the one that serves.
func (u *upgrade) serving() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.state != succeeded
}

// begin reserves the only upgrade at a time, which run does. An error says why
// there cannot be one now.
func (u *upgrade) begin() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch u.state {
	case upgrading:
		return errors.New("an upgrade is under way: send it again once that is over")
	case succeeded:
		return errors.New("another process has taken over from this one, which drains: send it to that one")
	}
	u.state = upgrading
	return nil
}

func (u *upgrade) set(state upgradeState) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.state = state
}

// run replaces this process, or says why it cannot. status is what to tell the
// service manager where this process goes on.
func (u *upgrade) run(ctx context.Context, status func() string) {
	u.logger.Info("upgrading: starting the binary anew", "timeout", u.timeout.String())
	u.manager.Reloading("upgrading")
	err := u.replace(ctx)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		u.set(serving)
		u.logger.Warn("the upgrade was given up, because this process is to end: " + err.Error())
	default:
		u.set(serving)
		u.logger.Error("the upgrade failed, this process goes on as before: " + err.Error())
		u.manager.Ready(status() + "; the last upgrade failed: " + err.Error())
	}
}

func (u *upgrade) replace(ctx context.Context) error {
	if err := replaceableProcess(os.Getpid(), systemd.Started(), u.manager != nil); err != nil {
		return err
	}
	command, err := self()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, u.timeout, fmt.Errorf("upgrade.timeout is %v", u.timeout))
	defer cancel()
	successor, err := handover.Start(command, u.sidecar.Estate())
	if err != nil {
		return fmt.Errorf("the new process cannot be started: %w", err)
	}
	if err := successor.AwaitReady(ctx); err != nil {
		successor.Kill()
		return fmt.Errorf("the new process %d: %w", successor.PID(), err)
	}
	if err := u.sidecar.Stay(); err != nil {
		successor.Kill()
		return err
	}
	if err := successor.Begin(ctx); err != nil {
		successor.Kill()
		u.sidecar.Resume()
		return fmt.Errorf("the new process %d: %w", successor.PID(), err)
	}
	u.set(succeeded)
	u.logger.Info("upgraded: a new process serves, this one drains", "pid", successor.PID())
	u.manager.Replaced(successor.PID())
	u.sidecar.Succeeded(successor.Took)
	successor.Leave() // last: it registers then, with what others are to find when they connect
	return nil
}

// replaceableProcess is an error where the end of this process would be that of its
// successor too.
func replaceableProcess(pid int, bySystemd, notifies bool) error {
	switch {
	case pid == 1:
		return errors.New("this is process 1, and a container ends with that: start a new container instead")
	case bySystemd && !notifies:
		return errors.New("systemd would end the new process together with this one: write Type=notify into the unit, and restart it")
	}
	return nil
}

// startedAs is what the shell or the service manager called this program. It is
// looked up when the process starts: PATH and folder are then what they meant.
var startedAs = lookUpSelf()

func lookUpSelf() string {
	path, err := exec.LookPath(os.Args[0])
	if err != nil {
		return ""
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return ""
	}
	return path
}

// self is the command that started this process. A path that leads over a symbolic
// link leads to the new program where the link was changed.
func self() (handover.Command, error) {
	path := startedAs
	if path == "" {
		var err error
		if path, err = os.Executable(); err != nil {
			return handover.Command{}, fmt.Errorf("this program's file is not known: %w", err)
		}
	}
	return handover.Command{Path: path, Args: os.Args}, nil
}
