package harness

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"sync"
)

// maxOutput bounds what is kept of a process's output, in bytes; the oldest
// lines go first.
const maxOutput = 4 << 20

// output collects the lines that a process writes and tells those who wait for
// one. It is an io.Writer for both of the process's streams.
type output struct {
	mu      sync.Mutex
	partial []byte
	lines   []string
	size    int
	dropped int
	changed chan struct{} // closed and renewed with each write
	closed  bool
}

func newOutput() *output {
	return &output{changed: make(chan struct{})}
}

// Write takes a chunk of the process's output. It never fails.
func (o *output) Write(chunk []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()

	o.partial = append(o.partial, chunk...)
	for {
		line, rest, found := bytes.Cut(o.partial, []byte("\n"))
		if !found {
			break
		}

		o.append(string(bytes.TrimSuffix(line, []byte("\r"))))
		o.partial = rest
	}

	close(o.changed)
	o.changed = make(chan struct{})

	return len(chunk), nil
}

func (o *output) append(line string) {
	o.lines = append(o.lines, line)
	o.size += len(line) + 1
	for o.size > maxOutput {
		o.size -= len(o.lines[0]) + 1
		o.lines = o.lines[1:]
		o.dropped++
	}
}

// close says that nothing more will be written.
func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()

	if len(o.partial) > 0 {
		o.append(string(o.partial))
		o.partial = nil
	}

	o.closed = true
	close(o.changed)
	o.changed = make(chan struct{})
}

// await returns the submatches of the first line that matches, written before
// the call or after it; false where ctx ends or the output does before one came.
func (o *output) await(ctx context.Context, pattern *regexp.Regexp) ([]string, bool) {
	seen := 0
	for {
		o.mu.Lock()
		for ; seen < o.dropped+len(o.lines); seen++ {
			if seen < o.dropped {
				seen = o.dropped
			}
			if match := pattern.FindStringSubmatch(o.lines[seen-o.dropped]); match != nil {
				o.mu.Unlock()

				return match, true
			}
		}
		changed, closed := o.changed, o.closed
		o.mu.Unlock()

		if closed {
			return nil, false
		}

		select {
		case <-changed:
		case <-ctx.Done():
			return nil, false
		}
	}
}

// String returns all that was kept.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()

	text := strings.Join(o.lines, "\n")
	if len(o.partial) > 0 {
		text += "\n" + string(o.partial)
	}

	return text
}
