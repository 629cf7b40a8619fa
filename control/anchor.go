package control

import (
	"context"
	"errors"
	"time"

	"github.com/pillion-proxy/pillion/control/kv"
)

// anchorPatience is how long writing anchors may take.
const anchorPatience = time.Second

// Anchor writes anchors, if nobody has yet. Without them the store has more to do, and
// nothing else is wrong: so errors are nobody's business.
func Anchor(ctx context.Context, store kv.Store, keys []string) {
	ctx, cancel := context.WithTimeout(ctx, anchorPatience)
	defer cancel()
	for _, key := range keys {
		if _, err := store.Get(ctx, key); errors.Is(err, kv.ErrNotFound) {
			_ = store.Commit(ctx, kv.Op{Key: key, Value: []byte("{}")})
		}
	}
}
