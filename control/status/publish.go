package status

import (
	"bytes"
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

const (
	// sessionTTL is how long a status outlives a sidecar that was killed; Consul takes up
	// to twice as long.
	sessionTTL = 30 * time.Second
	// lookEvery is how often a sidecar looks whether its status has changed where nobody
	// told it so.
	lookEvery = 5 * time.Second
	// pause is the least time between two statuses of a sidecar. spread is how far those
	// of many sidecars that changed at once are drawn apart: each is a write for the
	// store's servers, while the change itself is still on its way to others.
	pause  = time.Second
	spread = time.Second
	// retryBase and retryMost bound the pause after a failure.
	retryBase = 500 * time.Millisecond
	retryMost = 30 * time.Second
	// handOver bounds how long a process waits for its successor to take its status over.
	handOver = 3 * time.Second
)

// MaxDocuments bounds the documents that a status lists, those in order last.
const MaxDocuments = 1000

// Bounded returns as many documents as a status lists, and how many it leaves out: none
// that is not in order, unless they alone are too many.
func Bounded(list []*controlv1.DocumentStatus) (kept []*controlv1.DocumentStatus, left int) {
	if len(list) <= MaxDocuments {
		return list, 0
	}
	kept = slices.Clone(list)
	slices.SortStableFunc(kept, func(a, b *controlv1.DocumentStatus) int {
		return cmp.Compare(disorder(b), disorder(a))
	})
	return kept[:MaxDocuments], len(list) - MaxDocuments
}

func disorder(d *controlv1.DocumentStatus) int {
	if d.GetProblem() != "" {
		return 1
	}
	return 0
}

// Publisher keeps a sidecar's status in the store for as long as it runs.
type Publisher struct {
	// Store is where it is kept.
	Store kv.Store
	// Compute returns the status now, without its time.
	Compute func() *controlv1.SidecarStatus
	// Random draws from 0 to 1. Default: math/rand.
	Random func() float64
	// AtOnce has the first status be written without a pause: it takes the place of one
	// that is there.
	AtOnce bool
	Logger *slog.Logger

	changed chan struct{}
	succeed atomic.Bool
	session kv.Session
	said    *controlv1.SidecarStatus
	written []byte // of said
	failing string // the last failure, which was logged
}

// NewPublisher returns a Publisher.
func NewPublisher(store kv.Store, compute func() *controlv1.SidecarStatus, logger *slog.Logger) *Publisher {
	return &Publisher{Store: store, Compute: compute, Random: rand.Float64, Logger: logger, changed: make(chan struct{}, 1)}
}

// Changed says that the status may have changed.
func (p *Publisher) Changed() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Succeeded says that another process publishes the same status from now on.
func (p *Publisher) Succeeded() { p.succeed.Store(true) }

// Run publishes until ctx ends, and then takes the status out of the store; or, if it was
// Succeeded, waits a little until the successor has taken it over.
func (p *Publisher) Run(ctx context.Context) {
	defer p.leave()
	retry := retryBase
	wait := p.drawn()
	if p.AtOnce {
		wait = 0
	}
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-p.lost():
			p.session, p.said = nil, nil
			timer.Stop()
			wait = p.drawn()
			continue
		case <-timer.C:
		}
		if err := p.publish(ctx); err != nil {
			if ctx.Err() != nil {
				return
			}
			p.fail(err)
			wait, retry = retry/2+time.Duration(p.Random()*float64(retry)), min(2*retry, retryMost)
			continue
		}
		p.failing, retry = "", retryBase
		if !p.idle(ctx) {
			return
		}
		wait = p.drawn()
	}
}

// drawn is a pause that differs from sidecar to sidecar. It is never short: what many
// sidecars write holds up those who have not heard yet of what all write about.
func (p *Publisher) drawn() time.Duration {
	return spread/2 + time.Duration(p.Random()*float64(spread))
}

// lost is closed when the session is.
func (p *Publisher) lost() <-chan struct{} {
	if p.session == nil {
		return nil
	}
	return p.session.Done()
}

// idle waits until there may be something to say. It is false where ctx has ended.
func (p *Publisher) idle(ctx context.Context) bool {
	least := time.NewTimer(pause)
	defer least.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-least.C:
	}
	look := time.NewTimer(lookEvery)
	defer look.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-p.changed:
	case <-p.lost():
	case <-look.C:
	}
	return true
}

// publish writes the status, if it is not what was written last.
func (p *Publisher) publish(ctx context.Context) error {
	now := p.Compute()
	if p.session != nil && proto.Equal(now, p.said) {
		return nil
	}
	if p.session == nil {
		s, err := p.Store.Session(ctx, kv.SessionOptions{Name: "pillion " + now.GetId(), TTL: sessionTTL})
		if err != nil {
			return err
		}
		p.session = s
		control.Anchor(ctx, p.Store, control.Anchors())
	}
	written := proto.CloneOf(now)
	written.Time = timestamppb.Now()
	data, err := protojson.Marshal(written)
	if err != nil {
		return err
	}
	if err := p.session.Put(ctx, control.StatusKey(now.GetService(), now.GetId()), data); err != nil {
		return err
	}
	p.said, p.written = proto.CloneOf(now), data
	return nil
}

// fail logs a failure that is not the last one.
func (p *Publisher) fail(err error) {
	if err.Error() != p.failing {
		p.failing = err.Error()
		p.Logger.Warn("the sidecar's status cannot be published; it goes on trying", "store", p.Store.Describe(), "error", err)
	}
}

// leave takes the status out of the store.
func (p *Publisher) leave() {
	if p.session == nil {
		return
	}
	if p.succeed.Load() {
		p.awaitSuccessor()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = p.session.Close(ctx) // it ends by itself otherwise
}

// awaitSuccessor returns once the status is not this process's any more, so that it does
// not go with its session; or when that takes too long.
func (p *Publisher) awaitSuccessor() {
	if p.said == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), handOver)
	defer cancel()
	tick := time.NewTicker(handOver / 50)
	defer tick.Stop()
	for {
		e, err := p.Store.Get(ctx, control.StatusKey(p.said.GetService(), p.said.GetId()))
		if err != nil || !bytes.Equal(e.Value, p.written) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
