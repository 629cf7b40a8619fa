package identity_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/identitytest"
)

// record is a log that can be read while it is written.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

// take returns the lines since the last call.
func (r *record) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(r.text.String()), "\n")
	r.text.Reset()
	return slices.DeleteFunc(lines, func(line string) bool { return line == "" })
}

func (r *record) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func keep(t *testing.T, source *identitytest.Source) (*identity.Keeper, *record) {
	t.Helper()
	log := &record{}
	k := identity.Keep(source, identity.Options{Logger: log.logger()})
	t.Cleanup(k.Close)
	synctest.Wait()
	return k, log
}

// expect wants the lines of the log since it was read last to have these words.
func expect(t *testing.T, log *record, words ...string) {
	t.Helper()
	synctest.Wait()
	lines := log.take()
	if len(lines) != len(words) {
		t.Errorf("logged %d lines, want %d (%q): %q", len(lines), len(words), words, lines)
		return
	}
	for i, word := range words {
		if !strings.Contains(lines[i], word) {
			t.Errorf("logged %q, want %q", lines[i], word)
		}
	}
}

// life is of a certificate that begins now and ends in a day.
var life = []identitytest.Option{identitytest.From(0), identitytest.TTL(24 * time.Hour)}

func TestKeeper(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca, next := identitytest.CA(t, "example.org"), identitytest.CA(t, "example.org")
		source := identitytest.NewSource(nil)
		k, log := keep(t, source)
		if k.Current() != nil || k.Stalled() != nil {
			t.Errorf("before anything is known: %v, %v", k.Current(), k.Stalled())
		}
		var told []*identity.State
		stop := k.Watch(func(s *identity.State) { told = append(told, s) })
		if len(told) > 0 {
			t.Errorf("told %v before anything is known", told)
		}
		set := func(s *identity.State) {
			source.Set(s)
			synctest.Wait()
		}
		set(ca.State(nil))
		expect(t, log, "roots are in force")
		first := ca.Issue("/svc/web", life...)
		set(ca.State(first))
		expect(t, log, "certificate is in force")
		set(ca.State(first)) // nothing new
		set(ca.State(first, next))
		expect(t, log, "roots are in force")
		second := next.Issue("/svc/web", life...)
		set(next.State(second, ca))
		expect(t, log, "certificate is in force")
		if len(told) != 4 || told[3] != k.Current() || k.Current().Certificate.Leaf != second.Leaf {
			t.Errorf("told of %d states, want 4: %v; current is %v", len(told), told, k.Current())
		}
		var late *identity.State
		defer k.Watch(func(s *identity.State) { late = s })()
		if late != k.Current() {
			t.Errorf("who comes later is told %v", late)
		}
		stop()
		set(ca.State(first))
		if len(told) != 4 || late.Certificate.Leaf != first.Leaf {
			t.Errorf("told of %d states after the end of the watch; the other one of %v", len(told), late)
		}
	})
}

// What a source cannot use, or has not got at the moment, takes nothing away.
func TestKeeperKeeps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca, other := identitytest.CA(t, "example.org"), identitytest.CA(t, "example.org")
		source := identitytest.NewSource(nil)
		k, log := keep(t, source)
		good := ca.Issue("/svc/web", life...)
		source.Set(ca.State(good))
		expect(t, log, "roots", "certificate is in force")
		set := func(s *identity.State) {
			source.Set(s)
			synctest.Wait()
			if state := k.Current(); state.Certificate == nil || state.Certificate.Leaf != good.Leaf || state.ID.String() != "spiffe://example.org/svc/web" {
				t.Errorf("the certificate now is %v", state)
			}
		}
		set(nil)
		set(&identity.State{Certificate: good}) // no roots
		expect(t, log, "level=ERROR")
		bad := ca.Issue("/svc/web", identitytest.URIs("spiffe://example.org/a", "spiffe://example.org/b"))
		set(&identity.State{Certificate: bad, Bundles: ca.Bundles()})
		expect(t, log, "has 2 URI SANs")
		onlyClient := ca.Issue("/svc/web", identitytest.Usage(x509.ExtKeyUsageClientAuth))
		set(&identity.State{Certificate: onlyClient, Bundles: ca.Bundles()})
		expect(t, log, "serverAuth")
		set(ca.State(ca.Issue("/svc/web", identitytest.TTL(-time.Second))))
		expect(t, log, "has expired")
		set(ca.State(nil, other))
		expect(t, log, "roots are in force")
		if n := len(k.Current().Bundles[ca.TrustDomain].Roots); n != 2 {
			t.Errorf("%d roots are in force, want 2", n)
		}
	})
}

func TestKeeperWarnsOfRootsThatAreNotItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca, other := identitytest.CA(t, "example.org"), identitytest.CA(t, "example.org")
		source := identitytest.NewSource(other.State(ca.Issue("/svc/web")))
		_, log := keep(t, source)
		expect(t, log, "roots are in force", "certificate is in force", "may refuse the own certificate")
		source.Set(other.State(other.CrossSigned(ca).Issue("/svc/web")))
		expect(t, log, "certificate is in force")
	})
}

func TestKeeperWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := identitytest.CA(t, "example.org")
		source := identitytest.NewSource(nil)
		k, _ := keep(t, source)
		wait := func() (*identity.State, error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return k.Wait(ctx)
		}
		if s, err := wait(); s != nil || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no certificate yet: identity source test has not brought one") {
			t.Errorf("before there is one: %v, %v", s, err)
		}
		source.Fail(errors.New("agent is away"))
		if _, err := wait(); err == nil || !strings.Contains(err.Error(), "agent is away") {
			t.Errorf("while the source fails: %v", err)
		}
		source.Set(ca.State(nil))
		if s, err := wait(); err == nil {
			t.Errorf("with roots alone: %v", s)
		}
		time.AfterFunc(time.Second/2, func() { source.Set(ca.State(ca.Issue("/svc/web", identitytest.TTL(time.Minute)))) })
		began := time.Now()
		if s, err := wait(); err != nil || s != k.Current() || time.Since(began) != time.Second/2 {
			t.Errorf("when it came: %v, %v after %v", s, err, time.Since(began))
		}
		time.Sleep(2 * time.Minute)
		if s, err := wait(); err == nil || !strings.Contains(err.Error(), "the own certificate has expired at ") {
			t.Errorf("when it has expired: %v, %v", s, err)
		}
		source.Set(ca.State(ca.Issue("/svc/web")))
		if _, err := wait(); err != nil {
			t.Errorf("when there is another one: %v", err)
		}
	})
}

// Half of the lifetime is 12 hours; a source that is well has renewed after 16.8.
func TestStalledRenewal(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fails    bool
		renewsBy float64
		// stalls is when the renewal has stalled; half says whether half of the lifetime
		// is told of before.
		stalls time.Duration
		half   bool
	}{
		"a source that fails":                {true, 0, 12 * time.Hour, false},
		"a source that fails, late to renew": {true, 0.9, 12 * time.Hour, false},
		"one that brings nothing":            {false, 0, 16*time.Hour + 48*time.Minute, true},
		"one that renews at half":            {false, 0.5, 12 * time.Hour, false},
		"one that renews late":               {false, 0.9, 21*time.Hour + 36*time.Minute, true},
		"one that may renew at the end":      {false, 1, 24 * time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ca := identitytest.CA(t, "example.org")
				source := identitytest.NewSource(ca.State(ca.Issue("/svc/web", life...)))
				source.RenewsBy(c.renewsBy)
				if c.fails {
					source.Fail(errors.New("agent is away"))
				}
				began := time.Now()
				k, log := keep(t, source)
				log.take()
				at := func(d time.Duration) error {
					time.Sleep(d - time.Since(began))
					synctest.Wait()
					return k.Stalled()
				}
				if err := at(c.stalls - time.Second); err != nil {
					t.Errorf("a second before: %v", err)
				}
				if c.half {
					expect(t, log, "level=INFO msg=\"half of the certificate's lifetime is gone")
				} else {
					expect(t, log)
				}
				err := at(c.stalls + time.Second)
				if err == nil || !strings.Contains(err.Error(), "identity source test") || c.fails && !strings.Contains(err.Error(), "agent is away") {
					t.Errorf("a second after: %v", err)
				}
				if c.stalls < 24*time.Hour {
					at(c.stalls + time.Hour)
					expect(t, log, "level=WARN msg=\"renewal of the certificate has stalled\"")
				}
				if err := at(24*time.Hour + 2*time.Second); err == nil || !strings.Contains(err.Error(), "has expired at ") {
					t.Errorf("after its end: %v", err)
				}
				at(30 * time.Hour)
				expect(t, log, "level=ERROR msg=\"the own certificate has expired")
				source.Fail(nil)
				source.Set(ca.State(ca.Issue("/svc/web", life...)))
				synctest.Wait()
				if err := k.Stalled(); err != nil {
					t.Errorf("after a new one came: %v", err)
				}
			})
		})
	}
}

// A source that renews in time is never said to stall, whenever that is.
func TestRenewalInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := identitytest.CA(t, "example.org")
		source := identitytest.NewSource(nil)
		k, log := keep(t, source)
		for range 20 {
			source.Set(ca.State(ca.Issue("/svc/web", life...)))
			for range 16 {
				time.Sleep(time.Hour)
				if err := k.Stalled(); err != nil {
					t.Fatal(err)
				}
			}
		}
		synctest.Wait()
		for _, line := range log.take() {
			if !strings.Contains(line, "level=INFO") {
				t.Errorf("logged %q", line)
			}
		}
	})
}

// A source that begins to fail after half of the lifetime is noticed then.
func TestRenewalStallsLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ca := identitytest.CA(t, "example.org")
		source := identitytest.NewSource(ca.State(ca.Issue("/svc/web", life...)))
		_, log := keep(t, source)
		time.Sleep(13 * time.Hour)
		synctest.Wait()
		log.take()
		source.Fail(errors.New("agent is away"))
		time.Sleep(2 * time.Minute)
		expect(t, log, "renewal of the certificate has stalled")
		source.Fail(nil)
		source.Set(ca.State(ca.Issue("/svc/web", life...)))
		expect(t, log, "certificate is in force", "renewal of the certificate goes on")
	})
}
