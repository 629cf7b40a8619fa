package consul

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// reads is how many reads of watched services that do not block may run at
	// once. With those of the catalogue (lookups), of the registration and of the
	// datacentres they make up shortCalls.
	reads = shortCalls - lookups - 2
	// idleTimeout is how long a connection is kept for the next call. They count
	// against the agent's limit too.
	idleTimeout = 30 * time.Second
	// datacentersFresh is how long the list of datacentres is believed.
	datacentersFresh = time.Minute
)

// agent is the way to one Consul agent: the client, its token, and what the
// connections are shared by.
type agent struct {
	api      *api.Client
	address  string // as a person knows it
	scope    cacheScope
	limits   Limits
	log      *slog.Logger
	random   func() float64
	tokens   *tokens
	budget   *budget
	absence  *absence
	troubles *troubles
	// contact is when the agent answered last, in Unix nanoseconds; 0 for never.
	contact   atomic.Int64
	closeIdle func()
	// reads bounds the reads of watched services that do not block.
	reads chan struct{}

	storeOnce sync.Once
	store     *Store

	datacentersMu sync.Mutex
	datacenters   []string
	datacentersAt time.Time
}

func newAgent(cfg Config, deps Deps) (*agent, error) {
	resolved, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	connections := cfg.MaxConnections
	if connections == 0 {
		connections = defaultMaxConnections
	}

	a := &agent{
		address:   resolved.String(),
		limits:    cfg.Limits.withDefaults(),
		log:       deps.Log,
		random:    deps.Random,
		budget:    newBudget(connections - shortCalls),
		absence:   newAbsence(deps.Random),
		troubles:  newTroubles(deps.Log),
		closeIdle: func() {},
		reads:     make(chan struct{}, reads),
	}
	a.scope = cacheScope{
		Datacenter: resolved.config.Datacenter, Namespace: resolved.config.Namespace, Partition: resolved.config.Partition,
	}
	a.tokens = &tokens{file: resolved.tokenFile, token: resolved.token, troubles: a.troubles, rotated: a.budget.interrupt}

	base := deps.Transport
	if base == nil {
		transport, err := newTransport(resolved, connections, a.limits.ConnectTimeout)
		if err != nil {
			return nil, err
		}
		a.closeIdle = transport.CloseIdleConnections
		base = transport
	}

	config := resolved.config
	config.Transport = &http.Transport{} // not used: HttpClient has its own
	config.HttpClient = &http.Client{
		Transport: &authorized{base: base, tokens: a.tokens, maxAnswer: a.limits.AnswerBytes},
		// An agent redirects nobody, and the token is for nobody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if a.api, err = api.NewClient(config); err != nil {
		return nil, fmt.Errorf("consul: %w", oneLine(err))
	}

	return a, nil
}

func newTransport(resolved *target, connections int, timeout time.Duration) (*http.Transport, error) {
	tlsConfig, err := resolved.tlsConfig()
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: timeout,
		MaxConnsPerHost:     connections,
		MaxIdleConnsPerHost: connections,
		IdleConnTimeout:     idleTimeout,
		// Over TLS agents speak HTTP/2, where all queries share a connection.
		ForceAttemptHTTP2: true,
	}
	if resolved.network != "" {
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, resolved.network, resolved.address)
		}
	}

	return transport, nil
}

// authorized puts the token that is right now on each request, tries once more
// where a refused token has been rotated meanwhile, and bounds the answers.
type authorized struct {
	base      http.RoundTripper
	tokens    *tokens
	maxAnswer int
}

func (t *authorized) RoundTrip(req *http.Request) (*http.Response, error) {
	req = altered(req)
	token := t.tokens.current()
	resp, err := t.base.RoundTrip(withToken(req, token))
	if err != nil {
		return nil, err
	}

	repeatable := req.Body == nil || req.GetBody != nil
	if resp.StatusCode == http.StatusForbidden && repeatable {
		if fresh, changed := t.tokens.reload(token); changed {
			again := withToken(req, fresh)
			if req.GetBody != nil {
				if again.Body, err = req.GetBody(); err != nil {
					return resp, nil //nolint:nilerr // the refusal is an answer too
				}
			}
			_ = resp.Body.Close()
			if resp, err = t.base.RoundTrip(again); err != nil {
				return nil, err
			}
		}
	}
	resp.Body = &bounded{ReadCloser: resp.Body, most: t.maxAnswer, left: t.maxAnswer}

	return answered(req, resp), nil
}

func withToken(req *http.Request, token string) *http.Request {
	copied := req.WithContext(req.Context())
	copied.Header = req.Header.Clone()
	if token == "" {
		copied.Header.Del("X-Consul-Token")
	} else {
		copied.Header.Set("X-Consul-Token", token)
	}

	return copied
}

// bounded is a body that fails beyond a length.
type bounded struct {
	io.ReadCloser

	most, left int
}

var errTooLong = errors.New("the answer is too long (registry.consul.max_answer_size)")

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("%w: more than %d bytes", errTooLong, b.most)
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n

	return n, err
}

// isDatacenter says whether there is such a datacentre. The list is fetched
// when it is wanted and older than a minute; while the agent is away the old
// one does.
func (a *agent) isDatacenter(ctx context.Context, name string) (bool, error) {
	a.datacentersMu.Lock()
	defer a.datacentersMu.Unlock()

	if a.datacentersAt.IsZero() || time.Since(a.datacentersAt) >= datacentersFresh {
		list, err := a.listDatacenters(ctx)
		switch {
		case err == nil:
			a.datacenters, a.datacentersAt = list, time.Now()
		case a.datacentersAt.IsZero():
			return false, err
		}
	}

	return slices.Contains(a.datacenters, name), nil
}

func (a *agent) listDatacenters(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, a.limits.CallTimeout)
	defer cancel()

	var list []string
	// Catalog().Datacenters takes no context.
	_, err := a.api.Raw().Query("/v1/catalog/datacenters", &list, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		failure := a.explain(err, "list the datacentres")
		if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			a.note(scopeDatacenters, failure)
		}

		return nil, failure
	}
	a.noteSuccess(scopeDatacenters)

	return list, nil
}
