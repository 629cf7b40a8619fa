package mtls

import (
	"bytes"
	"crypto/tls"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/identity/identitytest"
	"github.com/pillion-proxy/pillion/proxy/h2"
)

func onEachNetwork(t *testing.T, test func(t *testing.T, n network)) {
	for name, n := range networks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, n)
		})
	}
}

// Both ends know who the other is, and speak the best there is.
func TestBothSidesAreProven(t *testing.T) {
	t.Parallel()
	onEachNetwork(t, func(t *testing.T, n network) {
		ca := identitytest.CA(t, domain)
		web, db := newSidecar(t, ca, "web"), newSidecar(t, ca, "db")
		caller, instance := must(t, n, web, db)
		if caller.Peer().ID != db.id || instance.Peer().ID != web.id {
			t.Errorf("the peers are %v and %v", caller.Peer().ID, instance.Peer().ID)
		}
		for _, c := range []*Conn{caller, instance} {
			cs := c.ConnectionState()
			if cs.Version != tls.VersionTLS13 || cs.NegotiatedProtocol != "h2" || cs.CurveID != tls.X25519MLKEM768 || cs.ServerName != "server.test" {
				t.Errorf("the connection is %x, %q, %v to %q", cs.Version, cs.NegotiatedProtocol, cs.CurveID, cs.ServerName)
			}
		}
		if !bytes.Equal(instance.Peer().Leaf.Raw, web.keeper.Current().Certificate.Certificate[0]) {
			t.Error("the leaf is another")
		}
		if got := handshakes(db.in); !maps.Equal(got, map[string]uint64{"ok": 1}) {
			t.Errorf("counted: %v", got)
		}
		if got := handshakes(web.out); !maps.Equal(got, map[string]uint64{"ok": 1}) {
			t.Errorf("counted: %v", got)
		}
	})
}

// What is sent arrives, in both directions at once.
func TestLargeTransfers(t *testing.T) {
	t.Parallel()
	onEachNetwork(t, func(t *testing.T, n network) {
		ca := identitytest.CA(t, domain)
		caller, instance := must(t, n, newSidecar(t, ca, "web"), newSidecar(t, ca, "db"))
		var group sync.WaitGroup
		for i, c := range []*Conn{caller, instance} {
			sent := make([]byte, 8<<20)
			fill(sent, uint64(i))
			group.Go(func() { writeAll(t, c, sent, int64(i)) })
			group.Go(func() {
				want := make([]byte, len(sent))
				fill(want, uint64(1-i))
				if got, err := readAll(c, int64(i)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d of %d bytes came, as they were: %v; %v", len(got), len(want), bytes.Equal(got, want), err)
				}
			})
		}
		group.Wait()
	})
}

func fill(p []byte, seed uint64) {
	var key [32]byte
	key[0] = byte(seed)
	_, _ = rand.NewChaCha8(key).Read(p)
}

// writeAll writes as the engine does, in pieces of many sizes, and says then that there
// is no more.
func writeAll(t testing.TB, c *Conn, p []byte, seed int64) {
	r := rand.New(rand.NewPCG(uint64(seed), 1))
	tr := c.Transport()
	for len(p) > 0 {
		piece := p[:min(len(p), 1+r.IntN(1<<(2+r.IntN(17))))]
		n, pending, err := tr.TryWrite(piece)
		if err == nil && (n < len(piece) || pending) {
			_, err = tr.Write(piece[n:], time.Minute)
		}
		if err != nil {
			t.Errorf("writing: %v", err)
			return
		}
		p = p[len(piece):]
	}
	if err := tr.CloseWrite(); err != nil {
		t.Errorf("CloseWrite: %v", err)
	}
}

// readAll reads as the engine does, into buffers of many sizes.
func readAll(c *Conn, seed int64) ([]byte, error) {
	r := rand.New(rand.NewPCG(uint64(seed), 2))
	buffer := make([]byte, 64<<10)
	var all []byte
	for {
		l := &lender{p: buffer[:1+r.IntN(len(buffer))]}
		n, err := c.Transport().Read(l)
		all = append(all, l.p[:n]...)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
}

// lender lends one buffer, and knows whether it was returned.
type lender struct {
	p    []byte
	lent int
}

func (l *lender) Lend() []byte { l.lent++; return l.p }
func (l *lender) Return()      { l.lent-- }

// An HTTP/2 connection goes over it as over a socket.
func TestTheEngineTakesTheTransport(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	caller, instance := must(t, connectTCP, newSidecar(t, ca, "web"), newSidecar(t, ca, "db"))
	for _, c := range []*Conn{caller, instance} {
		tr := h2.NewTransport(c)
		if tr != c.Transport() {
			t.Fatalf("the engine makes a %T of it", tr)
		}
		above, is := tr.(interface{ Beneath() h2.Transport })
		if !is || above.Beneath() == nil {
			t.Error("the socket cannot be found")
		}
	}
}

// The second connection needs no signatures, and its peer is verified all the same.
func TestSessionsAreResumed(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			t.Parallel()
			ca := identitytest.CA(t, domain)
			web, db := newSidecar(t, ca, "web", lowest(version)), newSidecar(t, ca, "db", lowest(version))
			force(db, version)
			for i := range 4 {
				caller, instance := must(t, connectTCP, web, db)
				if resumed := caller.ConnectionState().DidResume; resumed != (i > 0) {
					t.Errorf("connection %d: resumed is %v", i, resumed)
				}
				if caller.ConnectionState().Version != version {
					t.Errorf("it is %x", caller.ConnectionState().Version)
				}
				if caller.Peer().ID != db.id || instance.Peer().ID != web.id || caller.Peer().NotAfter.IsZero() {
					t.Errorf("the peers are %v and %v", caller.Peer(), instance.Peer())
				}
				hear(t, caller, instance)
			}
			if got := handshakes(db.in); !maps.Equal(got, map[string]uint64{"ok": 1, "resumed": 3}) {
				t.Errorf("counted: %v", got)
			}
		})
	}
}

func lowest(version uint16) func(*Options) { return func(o *Options) { o.MinVersion = version } }

// force has a sidecar speak no newer version with callers.
func force(s *sidecar, version uint16) {
	s.forCallers(s.keeper.Current()).MaxVersion = version
}

// hear has something sent to the caller, who then has what came with it: a ticket.
func hear(t testing.TB, caller, instance *Conn) {
	t.Helper()
	if _, err := instance.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := caller.Read(make([]byte, 10)); n != 1 || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
}

// What was agreed on by an earlier identity, of either side, is not resumed.
func TestSessionsEndWithTheIdentity(t *testing.T) {
	t.Parallel()
	for name, rotate := range map[string]func(web, db *sidecar) *sidecar{
		"the caller's":   func(web, _ *sidecar) *sidecar { return web },
		"the instance's": func(_, db *sidecar) *sidecar { return db },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := identitytest.CA(t, domain)
			web, db := newSidecar(t, ca, "web"), newSidecar(t, ca, "db")
			hearNew := func() (caller, instance *Conn) {
				caller, instance = must(t, connectTCP, web, db)
				hear(t, caller, instance)
				return caller, instance
			}
			old, oldInstance := hearNew()
			turned := rotate(web, db)
			turned.set(ca.State(ca.Issue(turned.id.String())))
			hear(t, old, oldInstance) // it goes on
			caller, instance := hearNew()
			if caller.ConnectionState().DidResume {
				t.Error("the session of the old identity is resumed")
			}
			if !bytes.Equal(instance.Peer().Leaf.Raw, web.keeper.Current().Certificate.Certificate[0]) {
				t.Error("the caller is who it was before")
			}
			if caller, _ := hearNew(); !caller.ConnectionState().DidResume {
				t.Error("the session of the new identity is not resumed")
			}
		})
	}
}

// A ticket of a connection that a caller made as somebody else is not kept.
func TestLateTicketsAreForgotten(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, domain)
	web, db := newSidecar(t, ca, "web"), newSidecar(t, ca, "db")
	caller, instance := must(t, connectTCP, web, db)
	web.set(ca.State(ca.Issue("/svc/web")))
	_ = web.sessions.of(web.keeper.Current()) // the next connection is being made
	hear(t, caller, instance)                 // the ticket comes
	if caller, _ := must(t, connectTCP, web, db); caller.ConnectionState().DidResume {
		t.Error("the session of the old identity is resumed")
	}
}

// A sidecar that has no certificate yet waits for one, on both sides.
func TestACertificateIsWaitedFor(t *testing.T) {
	t.Parallel()
	for _, late := range []string{"caller", "instance"} {
		t.Run(late, func(t *testing.T) {
			t.Parallel()
			ca := identitytest.CA(t, domain)
			web, db := withState(t, ca, nil), newSidecar(t, ca, "db")
			other := web
			if late == "instance" {
				web, db = newSidecar(t, ca, "web"), withState(t, ca, nil)
				other = db
			}
			state := ca.State(ca.Issue("/svc/late"))
			other.id = state.ID
			time.AfterFunc(50*time.Millisecond, func() { other.source.Set(state) })
			must(t, connectTCP, web, db)
		})
	}
}

// In permissive mode callers may do without TLS; the socket is then as it was.
func TestPermissive(t *testing.T) {
	t.Parallel()
	onEachNetwork(t, func(t *testing.T, n network) {
		ca := identitytest.CA(t, domain)
		web, db := newSidecar(t, ca, "web"), newSidecar(t, ca, "db")
		permit := func(client func(nc net.Conn)) *Conn {
			a, b := n(t)
			go client(a)
			c, err := db.Accept(b, Permissive)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		const said = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
		c := permit(func(nc net.Conn) { _, _ = nc.Write([]byte(said)) })
		if c.Peer() != nil || c.ConnectionState().Version != 0 {
			t.Errorf("who speaks plaintext is %v", c.Peer())
		}
		got := make([]byte, len(said))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != said {
			t.Errorf("he said %q, %v", got, err)
		}
		c = permit(func(nc net.Conn) { _, _ = web.Dial(t.Context(), nc, Expected{IDs: ids(db)}, nil) })
		if c.Peer() == nil || c.Peer().ID != web.id {
			t.Errorf("who speaks TLS is %v", c.Peer())
		}
	})
}
