package inbound

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/mtls"
	"github.com/pillion-proxy/pillion/proxy/relay"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// Security says how callers are spoken with.
type Security struct {
	TLS *mtls.TLS
	// Keeper has the own identity, the one of TLS.
	Keeper *identity.Keeper
	// Mode is whether a caller may do without TLS.
	Mode mtls.Mode
	// ServiceID is the template of services' SPIFFE IDs, by which callers get their
	// names, see [identity.NameOf].
	ServiceID string
}

// secure has callers prove who they are, and knows those that have.
type secure struct {
	*Security // nil: all speak plaintext
	counts    *telemetry.Security
	callers   *telemetry.Callers

	mu    sync.Mutex
	peers map[*mtls.Conn]time.Time // since when they are connected
}

func newSecure(o *Options) *secure {
	s := &secure{
		Security: o.Security, counts: &o.Counters.Security[telemetry.Inbound], callers: &o.Counters.Callers,
		peers: make(map[*mtls.Conn]time.Time),
	}
	if o.Security != nil {
		s.counts.InForce.Store(true)
	}
	return s
}

// accept is what [downstream.Options] wants of a connection; nil: nothing.
//
// [downstream.Options]: github.com/pillion-proxy/pillion/proxy/downstream.Options
func (s *secure) accept() func(net.Conn) (net.Conn, error) {
	if s.Security == nil {
		return nil
	}
	return func(nc net.Conn) (net.Conn, error) {
		c, err := s.TLS.Accept(nc, s.Mode)
		if err != nil {
			return nil, err // and no *mtls.Conn that is nil
		}
		return c, nil
	}
}

// isSilent says whether it is nothing to complain about that a caller was not accepted.
func isSilent(err error) bool { return errors.Is(err, mtls.ErrNothingSaid) }

// opened says who the RPCs of a connection come from, and looks after it.
func (s *secure) opened(hc *h2.Conn, nc net.Conn) (closed func()) {
	c, _ := nc.(*mtls.Conn)
	var peer *identity.Peer
	if c != nil {
		peer = c.Peer()
	}
	key := telemetry.CallerKey{Host: hc.PeerHost()}
	if peer != nil {
		key.ID = peer.ID.String()
	}
	counts := s.callers.Connected(key)
	uncount := s.counts.Opened(peer != nil)
	if peer == nil {
		hc.Data = relay.NewCaller(nil, "", identityOf(nil), counts)
		return func() {
			counts.Closed()
			uncount()
		}
	}
	own := s.Keeper.Current() // there was one to shake hands with
	hc.Data = relay.NewCaller(peer, identity.NameOf(s.ServiceID, own.TrustDomain, peer.ID), identityOf(own), counts)
	unattend := s.attend(hc, c)
	return func() {
		unattend()
		counts.Closed()
		uncount()
	}
}

// attend has a connection end where its caller is not believed any more, and drain where
// another is to take its place.
func (s *secure) attend(hc *h2.Conn, c *mtls.Conn) (stop func()) {
	s.mu.Lock()
	s.peers[c] = time.Now()
	s.mu.Unlock()
	unattend := s.TLS.Attend(c, mtls.Watched{
		End: func(reason error) {
			var b h2.Batch
			hc.Abort(&b, h2.InadequateSecurity, reason.Error())
			b.Done()
		},
		Drain: func() {
			var b h2.Batch
			hc.Shutdown(&b)
			b.Done()
		},
	})
	return func() {
		unattend()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.peers, c)
	}
}

// Peers returns who is connected by mutual TLS, one for each connection.
func (p *Proxy) Peers() (all []mtls.Connected) {
	p.secure.mu.Lock()
	defer p.secure.mu.Unlock()
	for c, since := range p.secure.peers {
		all = append(all, c.Connected(c.RemoteAddr().String(), since))
	}
	return all
}
