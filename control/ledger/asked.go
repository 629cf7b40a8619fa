package ledger

import (
	"log/slog"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// asked returns what people have written, by name, of entries below the service's prefix.
// Requests that cannot be read are left out.
func (b Book) asked(entries []kv.Entry, logger *slog.Logger) map[string]Entry {
	found := map[string]Entry{}
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
