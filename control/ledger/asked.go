package ledger

import (
	"log/slog"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// Asked is what people have written of one canary or experiment.
type Asked struct {
	// Document is the one that there is now, as it was written; nil: there is none. Problem
	// says why it cannot be used.
	Document *controlv1.Document
	Problem  error
	// Request is the last that was asked; nil: nothing was.
	Request *controlv1.Request
}

// Asked returns what people have written, by name, of entries below the service's prefix.
// Requests that cannot be read are left out.
func (b Book) Asked(entries []kv.Entry, logger *slog.Logger) map[string]Asked {
	found := map[string]Asked{}
	for _, e := range entries {
		kind, name, request, ok := control.ParseServiceKey(b.Service, e.Key)
		if !ok || kind != b.Kind {
			continue
		}
		one := found[name]
		if request {
			q := &controlv1.Request{}
			if err := unmarshal.Unmarshal(e.Value, q); err != nil || q.GetNumber() > control.MaxNumber {
				logger.Warn("a request cannot be read, and is not done", slog.String("key", e.Key), slog.Any("error", err))
				continue
			}
			one.Request = q
		} else {
			one.Document, one.Problem = documents.Decode(documents.ID{Kind: kind, Name: name}, e.Value)
		}
		found[name] = one
	}
	return found
}
