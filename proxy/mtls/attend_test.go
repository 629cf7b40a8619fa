package mtls

import (
	"crypto/x509"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/identitytest"
)

// watched is what was told of a connection, and when.
type watched struct {
	mu      sync.Mutex
	ended   []error
	endedAt time.Time
	drained []time.Time
}

func (w *watched) watch() Watched {
	return Watched{
		End: func(reason error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.ended, w.endedAt = append(w.ended, reason), time.Now()
		},
		Drain: func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.drained = append(w.drained, time.Now())
		},
	}
}

// world is a sidecar with an instance's connections, on virtual time.
type world struct {
	*sidecar
	t     *testing.T
	peers *identitytest.Authority
	began time.Time
}

func inWorld(t *testing.T, ttl time.Duration, test func(w *world)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := identitytest.CA(t, domain)
		s := withState(t, ca, ca.State(ca.Issue("/svc/db", identitytest.From(0), identitytest.TTL(ttl))))
		test(&world{sidecar: s, t: t, peers: ca, began: time.Now()})
	})
}

// conn is an open connection of a peer's, as a handshake leaves it.
func (w *world) conn(options ...identitytest.Option) *Conn {
	w.t.Helper()
	state := w.keeper.Current()
	cert := w.peers.Issue("/svc/web", append([]identitytest.Option{identitytest.From(0)}, options...)...)
	peer, err := state.Verify(identitytest.Chain(w.t, cert), x509.ExtKeyUsageClientAuth, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	return &Conn{peer: peer, usage: x509.ExtKeyUsageClientAuth, state: state, shown: state}
}

func (w *world) attend(c *Conn) (got *watched, stop func()) {
	got = new(watched)
	return got, w.Attend(c, got.watch())
}

// want waits until some time from the beginning, and wants so many drains and ends.
func (w *world) want(at time.Duration, got *watched, drains, ends int) {
	w.t.Helper()
	time.Sleep(time.Until(w.began.Add(at)))
	synctest.Wait()
	got.mu.Lock()
	defer got.mu.Unlock()
	if len(got.drained) != drains || len(got.ended) != ends {
		w.t.Errorf("after %v it was drained %d times and ended %d times (%v), want %d and %d", at, len(got.drained), len(got.ended), got.ended, drains, ends)
	}
}

// A connection ends when the peer's certificate does, and is drained before.
func TestTheEndOfAPeersCertificate(t *testing.T) {
	inWorld(t, 100*time.Hour, func(w *world) {
		got, _ := w.attend(w.conn(identitytest.TTL(10 * time.Hour)))
		w.want(8*time.Hour+59*time.Minute, got, 0, 0)
		w.want(9*time.Hour+31*time.Minute, got, 1, 0)
		w.want(10*time.Hour-time.Second, got, 1, 0)
		w.want(10*time.Hour+time.Second, got, 1, 1)
		if !strings.Contains(got.ended[0].Error(), "spiffe://mesh.test/svc/web has expired") {
			t.Errorf("it ended because %v", got.ended[0])
		}
		w.want(90*time.Hour, got, 1, 1)
	})
}

// Who comes with a certificate that is about to end is not sent away at once.
func TestAPeerWhoseCertificateIsAboutToEnd(t *testing.T) {
	inWorld(t, 100*time.Hour, func(w *world) {
		got, _ := w.attend(w.conn(identitytest.From(-99*time.Hour), identitytest.TTL(time.Hour)))
		w.want(29*time.Minute, got, 0, 0)
		w.want(31*time.Minute, got, 1, 0)
		w.want(61*time.Minute, got, 1, 1)
	})
}

// Nothing is told once stop was called.
func TestStoppedAttending(t *testing.T) {
	inWorld(t, 100*time.Hour, func(w *world) {
		got, stop := w.attend(w.conn(identitytest.TTL(time.Hour)))
		stop()
		w.set(w.ca.State(w.ca.Issue("/svc/db")))
		w.want(50*time.Hour, got, 0, 0)
		if n := len(w.attending.all); n != 0 {
			t.Errorf("%d connections are still attended", n)
		}
	})
}

// When there is a new certificate to show, connections are drained one after the other.
func TestConnectionsAreDrainedForANewCertificate(t *testing.T) {
	for _, test := range []struct{ ttl, at, spread time.Duration }{
		{100 * time.Hour, time.Hour, drainSpread},
		{100 * time.Second, 50 * time.Second, 5 * time.Second},
		{100 * time.Second, 150 * time.Second, 0},
	} {
		t.Run(test.ttl.String()+" after "+test.at.String(), func(t *testing.T) {
			inWorld(t, test.ttl, func(w *world) {
				const conns = 200
				all := make([]*watched, conns)
				for i := range all {
					all[i], _ = w.attend(w.conn(identitytest.TTL(1000 * time.Hour)))
				}
				w.want(test.at, all[0], 0, 0)
				w.set(w.ca.State(w.ca.Issue("/svc/db", identitytest.TTL(500*time.Hour))))
				last := time.Duration(0)
				w.want(test.at+test.spread+time.Second, all[0], 1, 0)
				early := 0
				for _, got := range all {
					if len(got.drained) != 1 || len(got.ended) != 0 {
						t.Fatalf("drained %d times, ended %d times", len(got.drained), len(got.ended))
					}
					after := got.drained[0].Sub(w.began.Add(test.at))
					last = max(last, after)
					if after < test.spread/2 {
						early++
					}
				}
				if last < test.spread/2 || last > test.spread+10*time.Millisecond || test.spread > 0 && (early < conns/4 || early > 3*conns/4) {
					t.Errorf("the last was drained after %v, %d in the first half, want them spread over %v", last, early, test.spread)
				}
				// The next one is not shown on them either, but they were told.
				w.set(w.ca.State(w.ca.Issue("/svc/db", identitytest.TTL(500*time.Hour))))
				w.want(test.at+time.Hour, all[0], 1, 0)
			})
		})
	}
}

// A state that shows the same certificate drains nobody, and roots that are added end
// nobody.
func TestRootsThatAreAdded(t *testing.T) {
	inWorld(t, 100*time.Hour, func(w *world) {
		got, _ := w.attend(w.conn(identitytest.TTL(1000 * time.Hour)))
		now := w.keeper.Current()
		w.set(w.ca.State(now.Certificate, identitytest.CA(t, "other.test"), identitytest.CA(t, domain)))
		w.want(time.Hour, got, 0, 0)
		if at := &w.attending; len(at.all) != 1 || at.verifying {
			t.Error("it is not attended any more")
		}
	})
}

// A connection ends whose peer is not believed any more, and no other.
func TestRootsThatAreRemoved(t *testing.T) {
	inWorld(t, 100*time.Hour, func(w *world) {
		others := identitytest.CA(t, "other.test")
		own := w.keeper.Current().Certificate
		w.set(w.ca.State(own, others))
		stays, _ := w.attend(w.conn())
		w.peers = others
		var gone []*watched
		for range 20 {
			got, _ := w.attend(w.conn())
			gone = append(gone, got)
		}
		w.want(time.Minute, gone[0], 0, 0)
		w.set(w.ca.State(own))
		for _, got := range gone {
			w.want(time.Minute+time.Second, got, 0, 1)
			if !strings.Contains(got.ended[0].Error(), `"other.test", for which there are no roots`) {
				t.Fatalf("it ended because %v", got.ended[0])
			}
		}
		w.want(time.Minute+time.Second, stays, 0, 0)
	})
}

// A root is replaced by one that has signed it: who chains to both stays.
func TestRootsThatAreRotated(t *testing.T) {
	inWorld(t, 100*time.Hour, func(w *world) {
		own := w.keeper.Current().Certificate
		next := identitytest.CA(t, domain)
		w.set(w.ca.State(own, next))
		old, _ := w.attend(w.conn(identitytest.TTL(1000 * time.Hour)))
		w.peers = w.ca.CrossSigned(next)
		both, _ := w.attend(w.conn(identitytest.TTL(1000 * time.Hour)))
		w.set(next.State(next.Issue("/svc/db", identitytest.TTL(1000*time.Hour))))
		w.want(time.Hour, both, 1, 0)
		w.want(time.Hour, old, old.drains(), 1)
	})
}

func (w *watched) drains() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.drained)
}

// The state may change between a handshake and its attending.
func TestTheStateChangesBeforeTheAttending(t *testing.T) {
	inWorld(t, 100*time.Hour, func(w *world) {
		others := identitytest.CA(t, "other.test")
		own := w.keeper.Current().Certificate
		w.set(w.ca.State(own, others))
		stays := w.conn()
		w.peers = others
		goes := w.conn()
		w.set(w.ca.State(w.ca.Issue("/svc/db")))
		one, _ := w.attend(stays)
		other, _ := w.attend(goes)
		w.want(time.Minute, one, 1, 0)
		w.want(time.Minute, other, other.drains(), 1)
	})
}

// Ten thousand connections are verified anew without holding up the one that asks.
func TestManyConnectionsAreVerifiedAnew(t *testing.T) {
	inWorld(t, 100*time.Hour, func(w *world) {
		c := w.conn(identitytest.TTL(1000 * time.Hour))
		for range 10_000 {
			w.Attend(c, Watched{})
		}
		own := w.keeper.Current().Certificate
		changed := make(chan struct{})
		w.keeper.Watch(func(s *identity.State) {
			if len(s.Bundles) == 2 {
				close(changed)
			}
		})
		w.source.Set(w.ca.State(own, identitytest.CA(t, "other.test")))
		<-changed
		w.attending.mu.Lock()
		verifying := w.attending.verifying
		w.attending.mu.Unlock()
		if !verifying {
			t.Error("they were verified in the goroutine of the change, or not at all")
		}
		w.Close() // which ends it
	})
}

// Connections in plaintext are left alone.
func TestPlaintextIsNotAttended(t *testing.T) {
	inWorld(t, 100*time.Hour, func(w *world) {
		got, stop := w.attend(&Conn{})
		w.want(200*time.Hour, got, 0, 0)
		stop()
	})
}
