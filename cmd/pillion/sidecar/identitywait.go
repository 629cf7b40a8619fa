package sidecar

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/registry"
)

// intentions are Consul's for calls of the app, from when the sidecar is made until it
// has drained: who is revoked meanwhile is out, however long the old RPCs take.
type intentions struct {
	stop  context.CancelFunc // nil: nothing is watched
	ended sync.WaitGroup
	first chan struct{} // closed once they are known

	mu    sync.Mutex
	known *registry.Intentions // nil: not yet
	to    func(*registry.Intentions)
}

// watch begins to watch them.
func (i *intentions) watch(source registry.IntentionSource, service string) {
	ctx, cancel := context.WithCancel(context.Background())
	i.stop, i.first = cancel, make(chan struct{})
	i.ended.Go(func() { source.WatchIntentions(ctx, service, i.take) })
}

func (i *intentions) take(now *registry.Intentions) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.known == nil && now != nil {
		close(i.first)
	}
	if i.known = now; i.to != nil {
		i.to(now)
	}
}

// apply has the proxy told of them, now and whenever they change.
func (i *intentions) apply(to func(*registry.Intentions)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.to = to; i.known != nil {
		to(i.known)
	}
}

// await returns nil once they are known, or need not be.
func (i *intentions) await(ctx context.Context) error {
	if i.stop == nil {
		return nil
	}
	select {
	case <-i.first:
		return nil
	case <-ctx.Done():
		return errors.New("the intentions for the app are not known yet, so callers by mutual TLS are refused")
	}
}

func (i *intentions) close() {
	if i.stop != nil {
		i.stop()
		i.ended.Wait()
	}
}

// needsIntentions says whether callers have to pass Consul's intentions.
func (s *Sidecar) needsIntentions() bool {
	return s.who != nil && s.who.consul != nil && s.cfg.GetIdentity().GetConsul().GetIntentions() && s.inboundSecurity() != nil
}

// awaitIdentity gives what RPCs by mutual TLS need its time: a certificate, and the
// intentions. Without, a sidecar begins all the same, and such RPCs fail until it is
// there; but it takes no other one's place, which may have both.
func (s *Sidecar) awaitIdentity(replaces bool) error {
	if s.who == nil {
		return nil
	}
	if s.listeners[sideInbound] != nil && s.needsIntentions() {
		s.who.intentions.watch(s.who.consul, s.cfg.GetService().GetName())
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.GetIdentity().GetStartTimeout().AsDuration())
	defer cancel()
	_, err := s.who.keeper.Wait(ctx)
	if err == nil {
		err = s.who.intentions.await(ctx)
	}
	switch {
	case err == nil:
	case replaces:
		return fmt.Errorf("identity: %w (identity.start_timeout is %v)", err, s.cfg.GetIdentity().GetStartTimeout().AsDuration().Round(time.Millisecond))
	default:
		s.logger.Error("mutual TLS has to wait", "err", err)
	}
	return nil
}
