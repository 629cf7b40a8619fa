package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Variable names the environment variable by which a process learns that it has a
// predecessor: the number of the descriptor of the control socket. The estate's
// sockets follow it.
const Variable = "PILLION_HANDOVER"

// firstDescriptor is where exec.Cmd's ExtraFiles begin.
const firstDescriptor = 3

// perProcess are the variables that systemd sets for one process alone: with them
// the successor would take its predecessor's descriptors and watchdog for its own.
var perProcess = []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID", Variable}

// Command is the program to start. It gets this process's environment, folder and
// standard streams.
type Command struct {
	// Path of the program, absolute.
	Path string
	// Args are its arguments, the program's name first.
	Args []string
}

// Estate is what there is to take over.
type Estate struct {
	Sockets []Socket
	// Known is whatever else the process knows that would be lost; nil for
	// nothing. It is handed on as JSON.
	Known any
}

// Successor is the process that is to replace this one, as this one sees it. One
// goroutine at a time may use it.
type Successor struct {
	cmd   *exec.Cmd
	wire  *wire
	sent  chan error    // of the estate
	ended chan struct{} // closed when the process is gone
	taken []int
}

// Start starts a successor and sends it the estate.
func Start(command Command, estate Estate) (*Successor, error) {
	known, err := json.Marshal(estate.Known)
	if err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	defer closeAll([]*os.File{ours, theirs}) // both have been duplicated then
	sockets, err := files(estate.Sockets)
	if err != nil {
		return nil, err
	}
	defer closeAll(sockets)
	w, err := newWire(ours)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(command.Path) //nolint:gosec,noctx // it is this program, and outlives this process
	cmd.Args = command.Args
	cmd.Env = append(without(os.Environ(), perProcess), fmt.Sprintf("%s=%d", Variable, firstDescriptor))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = append([]*os.File{theirs}, sockets...)
	if err := cmd.Start(); err != nil {
		w.close()
		return nil, err
	}
	s := &Successor{cmd: cmd, wire: w, sent: make(chan error, 1), ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		_ = cmd.Wait() // what there is to know stands in ProcessState
	}()
	go func() {
		s.sent <- w.send(message{Say: sayEstate, Version: version, Sockets: estate.Sockets, Known: known})
	}()
	return s, nil
}

// socketPair returns both ends of the control socket, closed on exec.
func socketPair() (ours, theirs *os.File, err error) {
	syscall.ForkLock.RLock() // no process may start between the two steps
	defer syscall.ForkLock.RUnlock()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, err
	}
	for _, fd := range pair {
		syscall.CloseOnExec(fd)
	}
	return os.NewFile(uintptr(pair[0]), "successor"), os.NewFile(uintptr(pair[1]), "predecessor"), nil
}

// without returns the environment without some variables.
func without(environment, names []string) []string {
	return slices.DeleteFunc(slices.Clone(environment), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains(names, name)
	})
}

// PID is the successor's process id.
func (s *Successor) PID() int { return s.cmd.Process.Pid }

// AwaitReady waits until the successor could begin, or ctx ends. After an error
// Kill is due.
func (s *Successor) AwaitReady(ctx context.Context) error {
	m, err := s.await(ctx, sayReady)
	if err != nil {
		return err
	}
	s.taken = m.Taken
	return <-s.sent
}

// Took says whether the successor has taken the nth socket of the estate. The
// others are of no use to it: its configuration listens elsewhere.
func (s *Successor) Took(n int) bool { return slices.Contains(s.taken, n) }

// Begin tells the successor to serve, and waits until it does, or ctx ends. After
// an error Kill is due.
func (s *Successor) Begin(ctx context.Context) error {
	if err := s.wire.send(message{Say: sayBegin}); err != nil {
		return s.because(err)
	}
	_, err := s.await(ctx, sayBegun)
	return err
}

func (s *Successor) await(ctx context.Context, want kind) (message, error) {
	s.wire.until(time.Time{})
	defer context.AfterFunc(ctx, func() { s.wire.until(time.Unix(1, 0)) })()
	m, err := s.wire.receive(want)
	switch {
	case err == nil:
		return m, nil
	case ctx.Err() != nil:
		return m, fmt.Errorf("it was not %s in time: %w", want, context.Cause(ctx))
	}
	return m, s.because(err)
}

// because says what has become of a successor that no longer answers.
func (s *Successor) because(err error) error {
	if !isGone(err) {
		return err // it has said why
	}
	const soon = 5 * time.Second // its end of the socket is closed, so it ends
	select {
	case <-s.ended:
		return fmt.Errorf("it ended with %v", s.cmd.ProcessState)
	case <-time.After(soon):
		return errors.New("it has closed the control socket: is it pillion?")
	}
}

// Leave tells the successor that it is in charge alone. Nothing can be undone
// then, and the Successor is of no more use.
func (s *Successor) Leave() { s.wire.close() }

// Kill ends the successor at once, and waits for its end.
func (s *Successor) Kill() {
	_ = s.cmd.Process.Kill()
	<-s.ended
	s.wire.close()
}
