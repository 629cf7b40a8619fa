package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// version is that of the messages. A process of another one starts as if it had
// no predecessor, finds the addresses taken and fails, and nothing is lost.
const version = 1

// maxMessage bounds a message, in bytes: the services that a sidecar watches, with
// all their instances, take a fraction of it.
const maxMessage = 256 << 20

// kind is what a message says.
type kind string

const (
	sayEstate kind = "estate"
	sayReady  kind = "ready"
	sayBegin  kind = "begin"
	sayBegun  kind = "begun"
	sayFailed kind = "failed"
)

// message is any of them; the fields that its kind has no use for are empty.
type message struct {
	Say kind `json:"say"`

	Version int             `json:"version,omitempty"` // estate
	Sockets []Socket        `json:"sockets,omitempty"`
	Known   json.RawMessage `json:"known,omitempty"`

	Taken []int `json:"taken,omitempty"` // ready: indices of the estate's sockets

	Error string `json:"error,omitempty"` // failed
}

// wire is one end of the socket pair.
type wire struct {
	conn net.Conn
	in   *json.Decoder
}

func newWire(f *os.File) (*wire, error) {
	conn, err := net.FileConn(f) // a duplicate, closed on exec
	if err != nil {
		return nil, err
	}
	return &wire{conn: conn, in: json.NewDecoder(io.LimitReader(conn, maxMessage))}, nil
}

func (w *wire) send(m message) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = w.conn.Write(text)
	return err
}

// receive waits for the next message, which must be of this kind. A failure that
// the other side tells is returned as its error.
func (w *wire) receive(want kind) (message, error) {
	var m message
	if err := w.in.Decode(&m); err != nil {
		return m, err
	}
	switch m.Say {
	case want:
		return m, nil
	case sayFailed:
		return m, errors.New(m.Error)
	}
	return m, fmt.Errorf("it says %q instead of %q: is it another version of pillion?", m.Say, want)
}

// isGone says whether the other process has ended, or has closed its end.
func isGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// until bounds what is waited for from now on; the zero time is no bound.
func (w *wire) until(t time.Time) { _ = w.conn.SetDeadline(t) }

func (w *wire) close() { _ = w.conn.Close() }
