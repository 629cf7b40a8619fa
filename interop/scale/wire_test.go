package scale

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// bin is how finely requests are counted.
const bin = 100 * time.Millisecond

// wire counts what goes to Consul from all sidecars together.
type wire struct {
	began time.Time
	bytes atomic.Int64 // of answers
	held  atomic.Int64 // requests that are under way

	mu     sync.Mutex
	bins   []int // requests by when they were sent
	failed []int // of those, by when they failed
	kinds  map[string]int
}

func newWire() *wire { return &wire{began: time.Now(), kinds: map[string]int{}} }

// count adds to the bin of now.
func (w *wire) count(to *[]int) {
	i := int(time.Since(w.began) / bin)
	for len(*to) <= i {
		*to = append(*to, 0)
	}
	(*to)[i]++
}

// reading is what was counted up to a moment.
type reading struct {
	bytes int64
	kinds map[string]int
}

func (w *wire) read() reading {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := reading{bytes: w.bytes.Load(), kinds: map[string]int{}}
	maps.Copy(r.kinds, w.kinds)
	return r
}

// since returns the requests of each bin from a moment on.
func (w *wire) since(at time.Time) (sent, failed []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	from := int(at.Sub(w.began) / bin)
	cut := func(all []int) []int { return slices.Clone(all[min(from, len(all)):]) }
	return cut(w.bins), cut(w.failed)
}

// door is one sidecar's way to Consul, with connections of its own.
type door struct {
	wire *wire
	base *http.Transport
}

func (w *wire) door() *door {
	// As the registry makes it.
	return &door{w, &http.Transport{MaxConnsPerHost: 64, MaxIdleConnsPerHost: 64, IdleConnTimeout: 30 * time.Second}}
}

// kindOf is what a request is for.
func kindOf(req *http.Request) string {
	path, query := strings.TrimPrefix(req.URL.Path, "/v1/"), req.URL.Query()
	part := strings.Split(path, "/")
	switch {
	case part[0] == "kv" && req.Method == http.MethodGet && query.Has("index"):
		return "watch"
	case part[0] == "kv" && req.Method == http.MethodGet:
		return "read"
	case part[0] == "kv", part[0] == "txn":
		return "write"
	case part[0] == "session" && len(part) > 1:
		return "session/" + part[1]
	case query.Has("index"):
		return "endpoints"
	}
	return "endpoints/first"
}

// RoundTrip implements http.RoundTripper.
func (d *door) RoundTrip(req *http.Request) (*http.Response, error) {
	w := d.wire
	w.mu.Lock()
	w.kinds[kindOf(req)]++
	w.count(&w.bins)
	w.mu.Unlock()
	w.held.Add(1)
	defer w.held.Add(-1)
	resp, err := d.base.RoundTrip(req)
	if err != nil || resp.StatusCode >= http.StatusInternalServerError {
		w.mu.Lock()
		w.count(&w.failed)
		w.mu.Unlock()
	}
	if err == nil {
		resp.Body = &counted{resp.Body, w}
	}
	return resp, err
}

// counted is a body whose bytes are counted.
type counted struct {
	io.ReadCloser
	wire *wire
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.wire.bytes.Add(int64(n))
	return n, err
}
