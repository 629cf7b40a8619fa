package telemetry

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/retry"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// Record says what became of one RPC. Who carries it fills it in at the RPC's
// end. Its strings need to be valid only while AccessLog.Log runs.
type Record struct {
	Start            time.Time     // when the RPC's headers were read
	Duration         time.Duration // from Start to the RPC's end
	UpstreamDuration time.Duration // from the last attempt's start to the RPC's end; 0 without one

	Side      Kind
	Peer      string   // the caller's address
	Source    string   // the service that calls, "" where that is not known
	Identity  string   // the SPIFFE ID that the caller has proven, "" without one
	Authority string   // :authority, as the caller wrote it
	Path      string   // :path
	Service   string   // the destination, "" if none was found
	Route     string   // what chose the destination
	Groups    []string // of the splits that the RPC was under
	Instance  string   // the instance of the last attempt, "" without one
	Attempts  int
	// NoRetry is why an RPC that failed under a retry or hedging policy was not sent
	// again.
	NoRetry retry.Reason

	Code       codes.Code
	Message    string    // grpc-message, decoded
	Flag       wire.Flag // why Pillion ended the RPC, if it did
	HTTPStatus int       // :status of the answer, 0 if there was none

	RequestMessages, ResponseMessages uint64
	RequestBytes, ResponseBytes       uint64 // of DATA frames, without padding

	groups string // Groups as the log has them
}

// The defaults of TextLimits.
const (
	maxLoggedName    = 256
	maxLoggedPath    = 512
	maxLoggedMessage = 1024
)

// TextLimits says how many bytes of a string the log keeps. They bound the memory
// of the queue and the length of a line, whatever a caller sends. The zero value of
// a field means its default.
type TextLimits struct {
	Name    int // of addresses and names; 256
	Path    int // 512
	Message int // 1024
}

func (l TextLimits) withDefaults() TextLimits {
	l.Name = cmp.Or(l.Name, maxLoggedName)
	l.Path = cmp.Or(l.Path, maxLoggedPath)
	l.Message = cmp.Or(l.Message, maxLoggedMessage)
	return l
}

// maxKeptText is the largest text whose memory an entry keeps for the next RPC.
const maxKeptText = 1024

// entry is a Record in the queue. Its strings stand one after the other in
// text, whose memory is used again.
type entry struct {
	Record // its strings are empty
	text   []byte
	ends   [10]int // where each of them ends
}

// set copies r. It allocates nothing once text is long enough.
func (e *entry) set(r *Record, limits *TextLimits) {
	e.Record = *r
	e.text = e.text[:0]
	for i, field := range e.Record.texts() {
		most := limits.Name
		switch field {
		case &e.Record.Path:
			most = limits.Path
		case &e.Record.Message:
			most = limits.Message
		}
		if field == &e.Record.groups {
			e.appendGroups(r.Groups, most)
		} else {
			e.text = append(e.text, (*field)[:min(len(*field), most)]...)
		}
		e.ends[i] = len(e.text)
		*field = "" // it is the caller's
	}
	e.Record.Groups = nil
}

// appendGroups appends the names of groups, as many as there is room for.
func (e *entry) appendGroups(groups []string, most int) {
	start := len(e.text)
	for i, group := range groups {
		if i > 0 {
			e.text = append(e.text, ',')
		}
		e.text = append(e.text, group...)
	}
	e.text = e.text[:min(len(e.text), start+most)]
}

// restore gives the strings back to the record, at the cost of one allocation.
func (e *entry) restore() {
	text, start := string(e.text), 0
	for i, field := range e.Record.texts() {
		*field = text[start:e.ends[i]]
		start = e.ends[i]
	}
}

// texts returns the record's strings.
func (r *Record) texts() [10]*string {
	return [...]*string{&r.Peer, &r.Source, &r.Identity, &r.Authority, &r.Path, &r.Service, &r.Route, &r.groups, &r.Instance, &r.Message}
}

// write hands the record to the log. docs/access-log.md explains the keys.
func (r *Record) write(h slog.Handler) error {
	line := slog.NewRecord(r.Start, slog.LevelInfo, "rpc", 0)
	line.AddAttrs(
		slog.String("side", r.Side.String()),
		slog.String("peer", r.Peer),
		slog.String("source", r.Source),
		slog.String("identity", r.Identity),
		slog.String("authority", r.Authority),
		slog.String("path", r.Path),
		slog.String("service", r.Service),
		slog.String("route", r.Route),
		slog.String("group", r.groups),
		slog.String("instance", r.Instance),
		slog.Int("attempts", r.Attempts),
		slog.String("retry", r.NoRetry.String()),
		slog.String("status", wire.StatusName(r.Code)),
		slog.String("message", r.Message),
		slog.String("flag", r.Flag.String()),
		slog.Int("http_status", r.HTTPStatus),
		slog.Float64("duration_ms", milliseconds(r.Duration)),
		slog.Float64("upstream_duration_ms", milliseconds(r.UpstreamDuration)),
		slog.Uint64("request_messages", r.RequestMessages),
		slog.Uint64("response_messages", r.ResponseMessages),
		slog.Uint64("request_bytes", r.RequestBytes),
		slog.Uint64("response_bytes", r.ResponseBytes),
	)
	return h.Handle(context.Background(), line)
}

// milliseconds rounds to microseconds, which is as much as is worth reading.
func milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond).Microseconds()) / 1000
}
