package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
)

// index is the page at "/".
const index = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Pillion</title>
<h1>Pillion</h1>
<ul>
<li><a href="/ready">/ready</a>: whether this sidecar takes traffic, and if not, why
<li><a href="/live">/live</a>: whether it runs
<li><a href="/endpoints">/endpoints</a>: services and their instances (?service=NAME for one)
<li><a href="/identity">/identity</a>: who this sidecar is, whom it believes, and whom it is connected with
<li><a href="/callers">/callers</a>: who called the local app, and how
<li><a href="/control/recorded">/control/recorded</a>: RPCs that are remembered for pillion plan
<li>/control/evidence?service=NAME&amp;name=NAME: what was counted of a canary
<li>/control/results?service=NAME&amp;name=NAME: what was counted of an experiment
<li><a href="/config">/config</a>: the configuration in effect, how its sources are doing, and how each policy stands
<li><a href="/metrics">/metrics</a>: for Prometheus
<li><a href="/debug/pprof/">/debug/pprof/</a>: profiles of the process
</ul>
<p>gRPC on the same port: pillion.admin.v1.Admin, with reflection.
</html>
`

// pages returns all that is served over plain HTTP. Everything is read only.
func (a *admin) pages() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, index)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.Metrics, promhttp.HandlerOpts{
		ErrorLog:            promLog{a},
		ErrorHandling:       promhttp.ContinueOnError, // one bad collector must not blind all
		MaxRequestsInFlight: a.Limits.Scrapes,
		EnableOpenMetrics:   true,
	}))
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "live\n") })
	mux.HandleFunc("GET /ready", a.readyPage)
	mux.HandleFunc("GET /config", a.configPage)
	mux.HandleFunc("GET /endpoints", a.endpointsPage)
	mux.HandleFunc("GET /identity", a.identityPage)
	mux.HandleFunc("GET /callers", a.callersPage)
	mux.HandleFunc("GET /control/recorded", a.recordedPage)
	mux.HandleFunc("GET /control/evidence", a.evidencePage)
	mux.HandleFunc("GET /control/results", a.resultsPage)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return a.bounded(mux)
}

// readyPage answers a probe: 200 if the sidecar takes traffic, else 503 with a
// line for each reason.
func (a *admin) readyPage(w http.ResponseWriter, _ *http.Request) {
	ready, draining, conditions := a.Readiness.state()
	if ready {
		text(w, http.StatusOK, "ready\n")
		return
	}
	var reasons bytes.Buffer
	if draining {
		reasons.WriteString("draining: the sidecar is shutting down\n")
	}
	for _, c := range conditions {
		if !c.GetMet() {
			fmt.Fprintf(&reasons, "%s: %s\n", c.GetName(), c.GetReason())
		}
	}
	text(w, http.StatusServiceUnavailable, "not ready\n"+reasons.String())
}

func (a *admin) configPage(w http.ResponseWriter, r *http.Request) {
	answer, err := a.GetConfig(r.Context(), &adminv1.GetConfigRequest{})
	message(w, answer, err, protojson.MarshalOptions{UseProtoNames: true})
}

// endpointsPage shows all services, or those of its "service" parameters.
func (a *admin) endpointsPage(w http.ResponseWriter, r *http.Request) {
	answer, err := a.ListEndpoints(r.Context(), &adminv1.ListEndpointsRequest{Services: r.URL.Query()["service"]})
	message(w, answer, err, protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true})
}

func (a *admin) identityPage(w http.ResponseWriter, r *http.Request) {
	answer, err := a.GetIdentity(r.Context(), &adminv1.GetIdentityRequest{})
	message(w, answer, err, protojson.MarshalOptions{UseProtoNames: true})
}

func (a *admin) callersPage(w http.ResponseWriter, r *http.Request) {
	answer, err := a.ListCallers(r.Context(), &adminv1.ListCallersRequest{})
	message(w, answer, err, protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true})
}

func (a *admin) recordedPage(w http.ResponseWriter, r *http.Request) {
	answer, err := a.ListRecorded(r.Context(), &adminv1.ListRecordedRequest{})
	controlPage(w, answer, err)
}

// evidencePage shows the canary that its "service" and "name" parameters name.
func (a *admin) evidencePage(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	answer, err := a.GetEvidence(r.Context(), &adminv1.GetEvidenceRequest{Service: query.Get("service"), Name: query.Get("name")})
	controlPage(w, answer, err)
}

// resultsPage shows the experiment that its "service" and "name" parameters name.
func (a *admin) resultsPage(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	answer, err := a.GetResults(r.Context(), &adminv1.GetResultsRequest{Service: query.Get("service"), Name: query.Get("name")})
	controlPage(w, answer, err)
}

// controlPage answers with a message, or says in one line why there is none.
func controlPage(w http.ResponseWriter, m proto.Message, err error) {
	if err == nil {
		message(w, m, nil, protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true})
		return
	}
	failed := status.Convert(err)
	code := http.StatusBadGateway
	switch failed.Code() {
	case codes.NotFound, codes.Unimplemented:
		code = http.StatusNotFound
	case codes.InvalidArgument:
		code = http.StatusBadRequest
	}
	text(w, code, failed.Message()+"\n")
}

func text(w http.ResponseWriter, code int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, body) // a client that has gone needs no answer
}

// message answers with a message as JSON, named as in the proto files.
func message(w http.ResponseWriter, m proto.Message, err error, o protojson.MarshalOptions) {
	var raw []byte
	if err == nil {
		raw, err = o.Marshal(m)
	}
	var body bytes.Buffer
	if err == nil {
		// protojson varies its white space on purpose; what people compare
		// should not vary.
		err = json.Indent(&body, raw, "", "  ")
	}
	if err != nil {
		text(w, http.StatusInternalServerError, fmt.Sprintf("admin: %v\n", err))
		return
	}
	body.WriteByte('\n')
	w.Header().Set("Content-Type", "application/json")
	_, _ = body.WriteTo(w)
}

// bounded gives each request its time and tells browsers to be careful with the
// answer.
func (a *admin) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		end := time.Now().Add(a.Limits.RequestTimeout + profileTime(r, a.Limits.Profile))
		control := http.NewResponseController(w)
		// Both can only fail where there is no connection, as in a test of a page.
		_ = control.SetReadDeadline(end)
		_ = control.SetWriteDeadline(end)
		// No page wants a body, but pprof would read a multipart one.
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		next.ServeHTTP(w, r)
	})
}

// profileTime returns how long the request asks to watch the process, and no more
// than most.
func profileTime(r *http.Request, most time.Duration) time.Duration {
	seconds, err := strconv.ParseFloat(r.URL.Query().Get("seconds"), 64)
	if err != nil || !(seconds > 0) {
		return 0
	}
	return time.Duration(min(seconds, most.Seconds()) * float64(time.Second))
}

// promLog hears of collectors that fail.
type promLog struct{ *admin }

func (l promLog) Println(v ...any) {
	l.Logger.Warn("admin: /metrics: " + fmt.Sprint(v...))
}
