package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
)

// Server serves the admin port.
type Server struct {
	admin  *admin
	hosts  hosts
	grpc   *grpc.Server
	health *health.Server
	http   *http.Server

	mu        sync.Mutex
	listeners []net.Listener
	accepting sync.WaitGroup // Add under mu, while stopping has not ended
	settling  *settling

	stopping context.Context // ended by Shutdown, and with it the streams
	stop     context.CancelFunc
	once     sync.Once
	stopped  chan struct{} // closed when Shutdown has done its work
	stopErr  error         // set before stopped is closed
}

// New makes a server. It fails only where Options.Metrics already holds
// collectors of other names for the Go runtime or the process.
func New(o Options) (*Server, error) {
	o.Limits = o.Limits.withDefaults()
	if o.Started.IsZero() {
		o.Started = time.Now()
	}
	if o.Build.Go == "" {
		o.Build.Go = runtime.Version()
	}
	if o.Readiness == nil {
		o.Readiness = NewReadiness()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		var already prometheus.AlreadyRegisteredError
		if err := o.Metrics.Register(c); err != nil && !errors.As(err, &already) {
			return nil, fmt.Errorf("admin: metrics of the process: %w", err)
		}
	}
	s := &Server{
		admin:   &admin{Options: o},
		hosts:   newHosts(o.Hosts),
		health:  health.NewServer(),
		stopped: make(chan struct{}),

		settling: newSettling(),
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.grpc = s.newGRPC()
	o.Readiness.watch(s.setServing)

	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:           s.handler(),
		ConnState:         s.settling.changed,
		Protocols:         protocols,
		ReadHeaderTimeout: o.Limits.ReadHeaderTimeout,
		IdleTimeout:       o.Limits.IdleTimeout,
		MaxHeaderBytes:    o.Limits.HeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: o.Limits.Streams,
			SendPingTimeout:      pingAfter,
			PingTimeout:          pingTimeout,
			WriteByteTimeout:     o.Limits.StallTimeout,
		},
		ErrorLog: log.New(complaints{o.Logger}, "", 0),
	}
	return s, nil
}

// handler tells gRPC requests from the others.
func (s *Server) handler() http.Handler {
	pages := s.admin.pages()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if mayUse := s.admin.MayUse; mayUse != nil && r.TLS != nil {
			if err := mayUse(*r.TLS); err != nil {
				http.Error(w, "admin: "+err.Error(), http.StatusForbidden)
				return
			}
		}
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			s.grpc.ServeHTTP(w, r)
			return
		}
		pages.ServeHTTP(w, r)
	})
	if s.admin.TLS != nil {
		return handler // a page in a browser cannot prove who it is
	}
	return s.hosts.guard(handler)
}

// Serve serves a listener, which it closes, until Shutdown has done its work;
// then it returns nil. When ctx ends it shuts down itself and lets requests go
// on for a second.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer context.AfterFunc(ctx, func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonAfter)
		defer cancel()
		_ = s.Shutdown(bounded) // that some request was cut off is no news here
	})()
	if !s.accept(l) {
		<-s.stopped
		return l.Close()
	}
	limited := netutil.LimitListener(l, s.admin.Limits.Connections)
	if s.admin.TLS != nil {
		limited = tls.NewListener(limited, s.admin.TLS)
	}
	err := s.http.Serve(limited)
	s.accepting.Done()
	if s.stopping.Err() != nil {
		<-s.stopped
		return nil
	}
	return fmt.Errorf("admin: listener %s: %w", l.Addr(), err)
}

// accept takes a listener in, unless Shutdown has begun.
func (s *Server) accept(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping.Err() != nil {
		return false
	}
	s.listeners = append(s.listeners, l)
	s.accepting.Add(1)
	return true
}

// stopAccepting closes the listeners, and returns when all that was accepted is
// known to http.Server: its own Shutdown does not wait for a connection that is on
// its way from Accept, and cuts it off.
func (s *Server) stopAccepting() {
	s.mu.Lock()
	s.stop()
	for _, l := range s.listeners {
		_ = l.Close()
	}
	s.mu.Unlock()
	s.accepting.Wait()
}

// Shutdown closes the listeners, ends the streams and waits for the requests
// under way. When ctx ends before they do it cuts them off and returns its
// error. Readiness and health are not its business: say Readiness.Drain long
// before.
func (s *Server) Shutdown(ctx context.Context) error {
	s.once.Do(func() {
		defer close(s.stopped)
		s.stopAccepting()
		s.http.SetKeepAlivesEnabled(false)
		s.settling.wait(ctx)
		s.stopErr = s.http.Shutdown(ctx)
		_ = s.http.Close() // what Shutdown waited for in vain
		s.grpc.Stop()
	})
	return s.stopErr
}

// complaints are what net/http has to say. What strangers do at the port is no news.
type complaints struct{ logger *slog.Logger }

// Write implements io.Writer.
func (c complaints) Write(line []byte) (int, error) {
	level := slog.LevelWarn
	if bytes.HasPrefix(line, []byte("http: TLS handshake error")) {
		level = slog.LevelDebug
	}
	c.logger.Log(context.Background(), level, "admin: "+string(bytes.TrimSpace(line)))
	return len(line), nil
}
