package modeltest

import (
	"strconv"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/pillion-proxy/pillion/proxy/telemetry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// verdict is what is known of one RPC when it is judged.
type verdict struct {
	w       *world
	r       *rpc
	o       *outcome
	out, in []record // of the access log, by side
}

// judge says what is wrong with how RPCs ended.
func (w *world) judge() {
	logged, err := w.log.records()
	if err != nil {
		w.violate(nil, "the access log: %v", err)
		return
	}
	total := 0
	for _, r := range w.plan.rpcs {
		v := verdict{w: w, r: r, o: &r.outcome}
		for _, rec := range logged[r.path] {
			total++
			if rec.Side == telemetry.Outbound.String() {
				v.out = append(v.out, rec)
			} else {
				v.in = append(v.in, rec)
			}
		}
		v.judge()
	}
	lines := 0
	for path, l := range logged {
		if path != probePath {
			lines += len(l)
		}
	}
	if lines != total {
		w.violate(nil, "the access log has %d records, %d of RPCs that clients made", lines, total)
	}
	w.checkTotals(logged)
}

func (v *verdict) bad(format string, args ...any) { v.w.violate(v.r, format, args...) }

func (v *verdict) judge() {
	v.onceProcessed()
	v.logged()
	switch v.o.how {
	case answered:
		v.answered()
	case wasReset:
		v.wasReset()
	case connLost:
		if v.o.conn.nc.c.wasHarmed() == "" && !v.w.plan.mayCutCallers() {
			v.bad("the client's connection ended, and nothing was done to it")
		}
	case notTaken:
		if len(v.r.attempts) > 0 || len(v.out) > 0 {
			v.bad("it is beyond the last id of the client's connection, and yet was looked at")
		}
	case notSent:
		if len(v.r.attempts) > 0 || len(v.out) > 0 {
			v.bad("the client did not send it, and yet it was looked at")
		}
	}
}

// mayCutCallers says that the engine may end callers' connections.
func (p *plan) mayCutCallers() bool { return false }

// onceProcessed checks that an RPC that an instance began was sent to no other
// one. One that an instance did not look at may have been sent first and come
// last.
func (v *verdict) onceProcessed() {
	var began *attempt
	for _, a := range v.r.attempts {
		switch {
		case a.unprocessed != "":
		case began != nil:
			v.bad("%v began to process it, and yet it was sent on: %v", began, a)
		default:
			began = a
		}
	}
}

// logged checks the access log.
func (v *verdict) logged() {
	o := v.o
	if len(v.out) > 1 {
		v.bad("%d records in the access log of the outbound side", len(v.out))
	}
	if len(v.out) == 0 {
		if len(v.r.attempts) > 0 || o.how == answered {
			v.bad("no record in the access log")
		}
		return
	}
	rec := v.out[0]
	if limit := milliseconds(v.r.timeout); limit > 0 && rec.DurationMS > limit {
		v.bad("it took %vms, its deadline is %vms", rec.DurationMS, limit)
	}
	if o.how == answered && o.status != "" {
		code, _ := strconv.Atoi(o.status)
		if want := wire.StatusName(codes.Code(code)); rec.Status != want {
			v.bad("the access log says %s, the client got %s", rec.Status, want)
		}
	}
	if rec.Status == "OK" {
		v.complete("the access log says OK")
	}
	if rec.Flag != "" && rec.Flag != "DC" {
		v.justify(rec)
	}
	for _, rec := range v.in {
		if rec.Flag != "" && rec.Flag != "DC" {
			v.justify(rec)
		}
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// complete checks that just one attempt was answered with OK in full.
func (v *verdict) complete(why string) {
	n := 0
	for _, a := range v.r.attempts {
		if a.complete && a.status == "0" {
			n++
		}
	}
	if n != 1 {
		v.bad("%s, and %d instances answered so", why, n)
	}
}

// answered judges an RPC whose answer came to its end.
func (v *verdict) answered() {
	o, r := v.o, v.r
	switch {
	case o.http != "200":
		v.bad("the answer has HTTP status %s", o.http)
		return
	case o.status == "":
		v.bad("the answer has no grpc-status")
		return
	case o.flag != "":
		if o.status == "0" {
			v.bad("an answer of Pillion's own with OK")
		}
		v.ownAnswer()
		return
	case o.serial < 0 || o.serial >= len(r.attempts):
		v.bad("the answer says that it is attempt %d's, of %d", o.serial, len(r.attempts))
		return
	}
	a := r.attempts[o.serial]
	whole := len(r.answer(a.serial))
	if r.ends == endsWell && o.got != whole || o.got != a.sent {
		v.bad("the client got %d bytes of an answer of %d, of which %d were sent", o.got, whole, a.sent)
	}
	if !a.complete || o.status != a.status {
		v.bad("the client got status %s, the instance sent %q (complete: %v)", o.status, a.status, a.complete)
	}
	if o.message != r.grpcMessage() {
		v.bad("the client got the message %q, the instance sent %q", o.message, r.grpcMessage())
	}
	if o.status == "0" {
		v.complete("the client got OK")
	}
}

// ownAnswer judges an answer that Pillion made: some side must have noted it.
func (v *verdict) ownAnswer() {
	code, _ := strconv.Atoi(v.o.status)
	name := wire.StatusName(codes.Code(code))
	for _, rec := range append(append([]record(nil), v.out...), v.in...) {
		if rec.Status == name && rec.Flag == v.o.flag {
			return
		}
	}
	v.bad("the client got %s with %s, and no access log says so", name, v.o.flag)
}

// wasReset judges an RPC that Pillion reset.
func (v *verdict) wasReset() {
	if v.o.code == http2.ErrCodeRefusedStream {
		if len(v.out) > 0 || len(v.r.attempts) > 0 {
			v.bad("it was refused, and yet looked at")
		}
		if v.w.plan.http2.MaxConcurrentStreams >= 100 && v.w.plan.shutdown == 0 {
			v.bad("it was refused, and there is no reason to")
		}
		return
	}
	if v.o.code == http2.ErrCodeNo {
		v.bad("reset with NO_ERROR before the answer's end")
	}
	if len(v.out) == 1 && v.out[0].Flag == "" {
		v.bad("it was reset, and the access log knows no reason: %+v", v.out[0])
	}
	// Headers of the answer may still have waited to be sent.
	n := len(v.r.attempts)
	if v.o.heads == 0 && !v.w.plan.scarce() && (n == 0 || v.r.attempts[n-1].sent == 0) {
		v.bad("it was reset, and not even begun to be answered")
	}
}

// resetStatus is what a reset becomes.
var resetStatus = map[http2.ErrCode]string{
	http2.ErrCodeRefusedStream: "UNAVAILABLE", http2.ErrCodeCancel: "CANCELLED",
	http2.ErrCodeEnhanceYourCalm: "RESOURCE_EXHAUSTED",
}

// justify checks that an RPC that Pillion ended gave it a reason to.
func (v *verdict) justify(rec record) {
	from := v.o.began
	to := from.Add(time.Duration(rec.DurationMS*float64(time.Millisecond)) + time.Minute)
	if v.o.how == answered && rec.Side == telemetry.Outbound.String() {
		to = v.o.at
	}
	because := func(t trouble) bool { return v.w.disturbed(t, from, to) }
	ok, want := false, "UNAVAILABLE"
	switch rec.Flag {
	case "UF", "UH":
		ok = because(troubleDial)
	case "UC":
		ok = because(troubleConn)
	case "UR":
		want, ok = v.upstreamReset(rec)
		ok = ok || because(troubleConn) // both sides: the sidecar there passes on what befell it
		if v.w.plan.sidecars && because(troubleConn) {
			want = rec.Status
		}
	case "DT":
		want = "DEADLINE_EXCEEDED"
		least := v.r.timeout
		if v.o.how == cancelled { // a little before it, by the caller, counts as the deadline
			least -= min(least/10, 20*time.Millisecond)
		}
		ok = v.r.timeout > 0 && (rec.Side == "inbound" || rec.DurationMS >= milliseconds(least))
	case "OM":
		want = rec.Status
		ok = v.w.plan.scarce() && rec.Status == "RESOURCE_EXHAUSTED" ||
			v.w.plan.upstream.MaxWaiting > 0 && rec.Status == "UNAVAILABLE"
	}
	if !ok || rec.Status != want {
		v.bad("the %s side ended it with %s, %s, and there is no reason to: %s", rec.Side, rec.Status, rec.Flag, rec.Message)
	}
}

// upstreamReset returns the status of an RPC that an instance reset.
func (v *verdict) upstreamReset(rec record) (status string, ok bool) {
	if n := len(v.r.attempts); n > 0 {
		switch a := v.r.attempts[n-1]; {
		case a.unprocessed != "":
			return "UNAVAILABLE", true
		case a.reset != nil:
			status = resetStatus[*a.reset]
			if status == "" {
				status = "INTERNAL"
			}
			return status, true
		}
	}
	if v.w.plan.sidecars {
		return rec.Status, true // the sidecar there reset it, and its record is judged too
	}
	return rec.Status, false
}

// checkTotals checks that the metrics count each RPC once, as the access log does.
func (w *world) checkTotals(logged map[string][]record) {
	for side, m := range w.metrics {
		kind := telemetry.Kind(side)
		lines := 0
		for _, recs := range logged {
			for _, rec := range recs {
				if rec.Side == kind.String() {
					lines++
				}
			}
		}
		prefix := "grpc_client_"
		if kind == telemetry.Inbound {
			prefix = "grpc_server_"
		}
		began, ended := sum(m, prefix+"started_total"), sum(m, prefix+"handled_total")
		if began != ended || int(ended) != lines {
			w.violate(nil, "%v side: %v RPCs began, %v ended, %d are in the access log", kind, began, ended, lines)
		}
	}
}

// checkCounters checks that no connection and no byte is counted any more.
func (w *world) checkCounters() {
	for side := range w.counters.DownstreamConnections {
		if n := w.counters.DownstreamConnections[side].Load(); n != 0 {
			w.violate(nil, "%v side: %d callers' connections are counted as open", telemetry.Kind(side), n)
		}
	}
	if n := sum(&w.counters, "pillion_upstream_connections"); n != 0 {
		w.violate(nil, "%v connections to instances are counted as open", n)
	}
	if n := w.budget.Used(); n != 0 {
		w.violate(nil, "%d bytes of the budget are still taken at the end", n)
	}
	if n := w.counters.AccessLogDropped.Load(); n != 0 {
		w.violate(nil, "%d records of the access log were dropped", n)
	}
}

// sum adds up all values of a metric.
func sum(c prometheus.Collector, name string) (total float64) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		panic(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				total += value(m)
			}
		}
	}
	return total
}

func value(m *dto.Metric) float64 { return m.GetCounter().GetValue() + m.GetGauge().GetValue() }
