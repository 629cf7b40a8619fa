package consul

import (
	"context"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// confirmAfter is when an answer that suddenly is empty is asked again:
	// confirmGoneAfter where Consul knows no instance any more, not even one that is
	// critical. An agent that lost its registrations gets them anew within that.
	confirmAfter     = 2 * time.Second
	confirmGoneAfter = failureMost + confirmAfter
)

// isLoss says whether the last endpoints would go.
func (w *watched) isLoss(next merged) bool {
	last := w.last()

	return last != nil && len(last.Endpoints) > 0 && (next.service == nil || len(next.service.Endpoints) == 0)
}

// doubt keeps what was known until the loss is confirmed.
func (w *watched) doubt(next merged) {
	if !w.doubting {
		w.doubting, w.gone = true, time.Time{}
		wait := confirmAfter
		if next.service == nil {
			wait = confirmGoneAfter
			w.gone = time.Now().Add(wait)
		}
		w.confirm.Reset(wait)
	}
	w.resort()
}

// confirmEmpty asks once more, the leader this time, and believes that.
func (w *watched) confirmEmpty(ctx context.Context) {
	answers, ok := w.read(ctx, &api.QueryOptions{Datacenter: w.dc, RequireConsistent: true})
	if ctx.Err() != nil {
		return
	}
	if !ok {
		w.confirm.Reset(confirmAfter)
		if !w.gone.IsZero() {
			w.gone = time.Now().Add(confirmAfter)
		}

		return
	}
	w.doubting = false
	w.sides = answers
	w.publish(w.merge())
}

// returns says whether instances come back that were all gone a moment ago. As long as
// that would not be believed, the others keep their places: they are registered one after
// the other.
func (w *watched) returns() bool {
	if !w.doubting || !w.relearning.Before(w.gone) {
		return false
	}
	w.relearning = w.gone

	return true
}
