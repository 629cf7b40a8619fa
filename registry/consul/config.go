package consul

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/registry"
)

// Config says which agent to ask and how. Its zero value means what Consul's
// own variables say (CONSUL_HTTP_ADDR and so on), and an agent on
// 127.0.0.1:8500 where they say nothing. TLS towards the agent is configured by
// those variables alone: CONSUL_CACERT, CONSUL_CAPATH, CONSUL_CLIENT_CERT,
// CONSUL_CLIENT_KEY, CONSUL_TLS_SERVER_NAME, CONSUL_HTTP_SSL_VERIFY.
type Config struct {
	// Address of the agent: "host:port", "http://host:port",
	// "https://host:port" (a path after it is put before every request's, for an
	// agent behind a gateway) or "unix:///path".
	// Default: CONSUL_HTTP_ADDR, else 127.0.0.1:8500.
	Address string
	// Scheme is "http" or "https". Default: what Address says, else https where
	// CONSUL_HTTP_SSL is true, else http.
	Scheme string
	// TokenFile holds the ACL token and is read again when it changes. It goes
	// before Token. Default, where Token is empty too: CONSUL_HTTP_TOKEN_FILE.
	TokenFile string
	// Token is the ACL token. Default: CONSUL_HTTP_TOKEN.
	Token string
	// Datacenter to look in, for names that do not say. Default: the agent's.
	Datacenter string
	// Namespace (Consul Enterprise). Default: CONSUL_NAMESPACE.
	Namespace string
	// Partition (Consul Enterprise). Default: CONSUL_PARTITION.
	Partition string
	// CacheDir is a folder for what was known last about each service, so that a
	// restart while Consul is away has something to go on with. It is made if it
	// is missing; several sidecars may share it. Default: nothing is kept.
	CacheDir string
	// RequireSidecar leaves out instances that have no sidecar whose inbound we
	// can speak to. Otherwise such an instance is dialled itself, in plaintext.
	RequireSidecar bool
	// Connect says that this sidecar has an identity of Consul's Connect CA. Instances
	// whose sidecars speak mTLS alone (Envoy's), and those that do so themselves
	// (Connect native), are dialled then, and endpoints say which identity they have
	// to prove. Otherwise the instance beside an Envoy is dialled itself.
	Connect bool
	// MaxConnections bounds the connections to the agent; see the package's
	// comment. At least 12. Default: 64.
	MaxConnections int
	// Limits bound what the agent may make us hold and wait for.
	Limits Limits
}

// Deps are what a Source takes from outside. The zero value is fit for use.
type Deps struct {
	// Log gets one line for each change of state that a person should know of.
	// Default: nothing is logged.
	Log *slog.Logger
	// Transport carries the requests to the agent. Default: an http.Transport
	// made from the Config.
	Transport http.RoundTripper
	// LastKnown and Older are services as a process knew them that this one replaces
	// (see Source.LastKnown). The former are handed over at once, the latter as what
	// CacheDir holds, and before it.
	LastKnown, Older []*registry.Service
	// Random returns numbers in [0,1), for jitter. Default: math/rand/v2.
	Random func() float64
}

const (
	defaultAddress        = "127.0.0.1:8500"
	defaultMaxConnections = 64
	minMaxConnections     = 12
	// shortCalls is how many of the connections blocking queries leave to others.
	shortCalls = 8
)

// withDefaults fills in the dependencies that were left out.
func (d Deps) withDefaults() Deps {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Random == nil {
		d.Random = rand.Float64
	}

	return d
}

// target is where the agent is, after defaults.
type target struct {
	config *api.Config
	// network and address are what to dial where that is not what the URL says.
	network, address string
	tokenFile, token string
}

// String is the agent's address as a person knows it.
func (t *target) String() string {
	if t.network == "unix" {
		return "unix://" + t.address
	}

	return t.config.Scheme + "://" + t.config.Address + t.config.PathPrefix
}

// resolve fills what c leaves out from Consul's variables and checks the whole.
func (c Config) resolve() (*target, error) {
	for _, name := range []string{api.HTTPSSLEnvName, api.HTTPSSLVerifyEnvName} {
		if value := os.Getenv(name); value != "" {
			if _, err := strconv.ParseBool(value); err != nil {
				return nil, fmt.Errorf("consul: variable %s is %q: want true or false", name, value)
			}
		}
	}

	resolved := &target{config: api.DefaultConfig()}
	cfg := resolved.config

	switch {
	case c.TokenFile != "":
		resolved.tokenFile = c.TokenFile
	case c.Token != "":
		resolved.token = c.Token
	default:
		resolved.tokenFile, resolved.token = cfg.TokenFile, cfg.Token
	}
	// Each request's token is set by the transport, from what the file says then.
	// A client that has a token, whatever it is, does not go looking for one.
	cfg.TokenFile, cfg.Token = "", "set by the transport"

	switch {
	case c.Address != "":
		cfg.Address = c.Address
	case os.Getenv(api.HTTPAddrEnvName) == "":
		cfg.Address = defaultAddress
	}
	if c.Scheme != "" {
		cfg.Scheme = c.Scheme
	}
	if err := resolved.splitAddress(c.Scheme != ""); err != nil {
		return nil, err
	}
	if cfg.Scheme != "http" && cfg.Scheme != "https" {
		return nil, fmt.Errorf("consul: scheme %q: want http or https", cfg.Scheme)
	}

	if c.Datacenter != "" {
		cfg.Datacenter = c.Datacenter
	}
	if c.Namespace != "" {
		cfg.Namespace = c.Namespace
	}
	if c.Partition != "" {
		cfg.Partition = c.Partition
	}
	if c.MaxConnections != 0 && c.MaxConnections < minMaxConnections {
		return nil, fmt.Errorf("consul: %d connections to the agent are too few: want at least %d", c.MaxConnections, minMaxConnections)
	}

	return resolved, nil
}

// splitAddress takes the scheme and the path off the address, so that the
// client library, which would otherwise make a transport of its own for Unix
// sockets, finds nothing left to do.
func (t *target) splitAddress(schemeChosen bool) error {
	cfg := t.config

	rest, scheme := schemeOf(cfg.Address)
	switch scheme {
	case "":
	case "unix":
		if !strings.HasPrefix(rest, "/") {
			return fmt.Errorf("consul: address %q: the path of a Unix socket is absolute: write unix:///run/consul.sock", cfg.Address)
		}
		t.network, t.address = "unix", rest
		cfg.Address = "localhost"

		return nil
	case "http", "https":
		// Never back to http where TLS was asked for: https wins over http.
		if !schemeChosen && cfg.Scheme != "https" {
			cfg.Scheme = scheme
		}
		if schemeChosen && cfg.Scheme != scheme {
			return fmt.Errorf("consul: address %q contradicts scheme %q: leave one of them out", cfg.Address, cfg.Scheme)
		}
	default:
		return fmt.Errorf("consul: address %q: want host:port, http://host:port, https://host:port or unix:///path", cfg.Address)
	}

	host, path, _ := strings.Cut(rest, "/")
	if path = strings.TrimRight(path, "/"); path != "" {
		cfg.PathPrefix = "/" + path
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		return fmt.Errorf("consul: address %q: want host:port: %w", cfg.Address, err)
	}
	cfg.Address = host

	return nil
}

func schemeOf(address string) (rest, scheme string) {
	scheme, rest, found := strings.Cut(address, "://")
	if !found {
		return address, ""
	}

	return rest, scheme
}

// tlsConfig is what Consul's variables say about TLS towards the agent.
func (t *target) tlsConfig() (*tls.Config, error) {
	cfg, err := api.SetupTLSConfig(&t.config.TLSConfig)
	if err != nil {
		return nil, fmt.Errorf("consul: TLS towards the agent (CONSUL_CACERT, CONSUL_CLIENT_CERT and so on): %w", oneLine(err))
	}

	return cfg, nil
}

// oneLine keeps an error's message on one line, and within a bound: it may hold
// what a peer sent.
func oneLine(err error) error {
	const limit = 500

	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "…"
	}
	if text == err.Error() {
		return err
	}

	return errors.New(text)
}
