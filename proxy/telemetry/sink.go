package telemetry

import (
	"fmt"
	"io"
	"os"
	"sync"
)

// sink is where the lines of the access log go.
type sink struct {
	name string // for messages: the path, or what it is
	path string // of the file to open again; "" for what is no file of ours

	mu     sync.Mutex // held while writing and while w changes
	w      io.Writer
	torn   bool // the last write ended within a line
	closed bool
}

func openSink(path string) (*sink, error) {
	switch path {
	case "stdout":
		return &sink{name: path, w: os.Stdout}, nil
	case "stderr":
		return &sink{name: path, w: os.Stderr}, nil
	}
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	return &sink{name: path, path: path, w: f}, nil
}

func openFile(path string) (*os.File, error) {
	// The log names callers and what they called: not for everybody to read.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("access log: %w: choose a file that can be written to, or stdout, for access_log.path", err)
	}
	return f, nil
}

// write writes whole lines. After a write that failed within a line the next
// one begins a new line.
func (s *sink) write(lines []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.torn {
		if _, err := s.w.Write([]byte{'\n'}); err != nil {
			return err
		}
		s.torn = false
	}
	n, err := s.w.Write(lines)
	if err == nil && n < len(lines) {
		err = io.ErrShortWrite
	}
	s.torn = err != nil && n > 0 && lines[n-1] != '\n'
	return err
}

// reopen opens the file again by its path.
func (s *sink) reopen() error {
	if s.path == "" {
		return nil
	}
	f, err := openFile(s.path)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return f.Close()
	}
	old := s.w.(io.Closer)
	s.w, s.torn = f, false
	return old.Close()
}

// close closes the file, once. What is no file of ours stays open.
func (s *sink) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" || s.closed {
		return nil
	}
	s.closed = true
	return s.w.(io.Closer).Close()
}
