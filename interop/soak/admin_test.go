package soak

import (
	"io"
	"net/http"
	"os"
	"syscall"
	"time"
)

// scrape looks at the admin ports as people and tools do, on connections that
// are kept.
func scrape(a *acting) {
	pages := []string{
		"/metrics", "/config", "/endpoints", "/ready", "/live", "/", "/nothing",
		"/debug/pprof/goroutine?debug=1", "/debug/pprof/heap", "/debug/pprof/profile?seconds=1",
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patient}
	for a.pause(50*time.Millisecond, 300*time.Millisecond) {
		for _, o := range a.observed() {
			page := pages[a.IntN(len(pages))]
			request, err := http.NewRequestWithContext(a.ctx, http.MethodGet, "http://"+o.Admin+page, http.NoBody)
			if err != nil {
				a.s.Fatal(err)
			}
			response, err := client.Do(request)
			if err != nil {
				if a.ctx.Err() == nil {
					a.s.Errorf("GET %s of %s: %v", page, o.name, err)
				}

				continue
			}
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
		}
	}
}

// rotateLogs moves the access logs away, as logrotate does.
func rotateLogs(a *acting) {
	for a.pause(2*time.Second, 4*time.Second) {
		for _, o := range a.observed() {
			a.eventf("rotation: %s", o.name)
			if err := os.Rename(o.log, o.log+".1"); err != nil {
				a.s.Errorf("the access log of %s: %v", o.name, err)

				continue
			}
			o.Signal(a.s, syscall.SIGUSR1)
			for a.pause(10*time.Millisecond, 10*time.Millisecond) {
				if _, err := os.Stat(o.log); err == nil {
					break
				}
			}
		}
	}
}
