package consul

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/consul/api"
)

// No test here may be parallel: the variables belong to the process.
func setVariables(t *testing.T, variables map[string]string) {
	t.Helper()
	for _, name := range []string{
		api.HTTPAddrEnvName, api.HTTPTokenEnvName, api.HTTPTokenFileEnvName, api.HTTPAuthEnvName, api.HTTPSSLEnvName,
		api.HTTPSSLVerifyEnvName, api.HTTPCAFile, api.HTTPCAPath, api.HTTPClientCert, api.HTTPClientKey,
		api.HTTPTLSServerName, api.HTTPNamespaceEnvName, api.HTTPPartitionEnvName,
	} {
		t.Setenv(name, variables[name])
	}
}

func TestWhereTheAgentIs(t *testing.T) {
	for _, test := range []struct {
		name      string
		cfg       Config
		variables map[string]string
		agent     string
	}{
		{"nothing said", Config{}, nil, "http://127.0.0.1:8500"},
		{"configured", Config{Address: "10.0.0.1:8501"}, nil, "http://10.0.0.1:8501"},
		{"configured, IPv6", Config{Address: "[fd00::1]:8500"}, nil, "http://[fd00::1]:8500"},
		{"with a scheme", Config{Address: "https://consul:8501"}, nil, "https://consul:8501"},
		{"scheme apart", Config{Address: "consul:8501", Scheme: "https"}, nil, "https://consul:8501"},
		{"behind a gateway", Config{Address: "http://gw:80/consul/"}, nil, "http://gw:80/consul"},
		{"Unix socket", Config{Address: "unix:///run/consul.sock"}, nil, "unix:///run/consul.sock"},
		{"by variable", Config{}, map[string]string{"CONSUL_HTTP_ADDR": "10.0.0.2:8500"}, "http://10.0.0.2:8500"},
		{"by variable, TLS", Config{}, map[string]string{"CONSUL_HTTP_ADDR": "https://10.0.0.2:8501"}, "https://10.0.0.2:8501"},
		{"TLS by variable", Config{Address: "c:8501"}, map[string]string{"CONSUL_HTTP_SSL": "true"}, "https://c:8501"},
		{"never back from TLS", Config{Address: "http://c:8501"}, map[string]string{"CONSUL_HTTP_SSL": "true"}, "https://c:8501"},
		{"config before variable", Config{Address: "c:1"}, map[string]string{"CONSUL_HTTP_ADDR": "unix:///x"}, "http://c:1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			setVariables(t, test.variables)
			source, err := New(test.cfg, Deps{})
			if err != nil {
				t.Fatal(err)
			}
			want(t, "agent", source.Status().Agent, test.agent)
		})
	}
}

func TestBadConfiguration(t *testing.T) {
	for _, test := range []struct {
		name      string
		cfg       Config
		variables map[string]string
		says      string
	}{
		{"no port", Config{Address: "consul"}, nil, "want host:port"},
		{"odd scheme", Config{Address: "ftp://consul:1"}, nil, "want host:port, http://"},
		{"odd scheme apart", Config{Scheme: "ftp"}, nil, "want http or https"},
		{"contradiction", Config{Address: "https://c:1", Scheme: "http"}, nil, "contradicts"},
		{"relative socket", Config{Address: "unix://run/x"}, nil, "absolute"},
		{"few connections", Config{MaxConnections: 5}, nil, "at least 12"},
		{"no boolean", Config{}, map[string]string{"CONSUL_HTTP_SSL": "perhaps"}, `variable CONSUL_HTTP_SSL is "perhaps"`},
		{"no such CA", Config{}, map[string]string{"CONSUL_CACERT": "/does/not/exist"}, "CONSUL_CACERT"},
		{"half a certificate", Config{}, map[string]string{"CONSUL_CLIENT_CERT": "/x"}, "both client cert and client key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			setVariables(t, test.variables)
			_, err := New(test.cfg, Deps{})
			if err == nil || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %v, want %q in one line", err, test.says)
			}
		})
	}
}

// What is said in variables and in the configuration must arrive at the agent,
// over TCP as over a Unix socket.
func TestWhatArrivesAtTheAgent(t *testing.T) {
	setVariables(t, map[string]string{
		"CONSUL_HTTP_TOKEN": "of the variable", "CONSUL_NAMESPACE": "ns1", "CONSUL_PARTITION": "ap1", "CONSUL_HTTP_AUTH": "user:secret",
	})
	var (
		mu   sync.Mutex
		seen *http.Request
	)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = r.Clone(r.Context())
		w.Header().Set("X-Consul-Knownleader", "true")
		_, _ = w.Write([]byte(`{"greeter":[]}`))
	})
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: handler}}
	server.Start()
	defer server.Close()
	tcp := httptest.NewServer(handler)
	defer tcp.Close()

	for name, test := range map[string]struct {
		cfg                    Config
		token, ns, ap, dc, uri string
	}{
		"variables":     {Config{Address: tcp.URL}, "of the variable", "ns1", "ap1", "", "/v1/catalog/services"},
		"configuration": {Config{Address: tcp.URL, Token: "mine", Namespace: "ns2", Partition: "ap2", Datacenter: "dc2"}, "mine", "ns2", "ap2", "dc2", "/v1/catalog/services"},
		"Unix socket":   {Config{Address: "unix://" + socket}, "of the variable", "ns1", "ap1", "", "/v1/catalog/services"},
		"gateway":       {Config{Address: tcp.URL + "/consul"}, "of the variable", "ns1", "ap1", "", "/consul/v1/catalog/services"},
	} {
		t.Run(name, func(t *testing.T) {
			source, err := New(test.cfg, Deps{})
			if err != nil {
				t.Fatal(err)
			}
			defer source.CloseIdleConnections()
			names, err := source.Services(t.Context())
			if err != nil || len(names) != 1 {
				t.Fatalf("%v, %v", names, err)
			}
			mu.Lock()
			defer mu.Unlock()
			query := seen.URL.Query()
			want(t, "token", seen.Header.Get("X-Consul-Token"), test.token)
			want(t, "namespace", query.Get("ns"), test.ns)
			want(t, "partition", query.Get("partition"), test.ap)
			want(t, "datacentre", query.Get("dc"), test.dc)
			want(t, "path", seen.URL.Path, test.uri)
			if user, password, _ := seen.BasicAuth(); user != "user" || password != "secret" {
				t.Errorf("%s:%s", user, password)
			}
		})
	}
}

func TestTokenGoesNowhereElse(t *testing.T) {
	setVariables(t, nil)
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("asked with %v", r.Header)
	}))
	defer thief.Close()
	agent := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
	defer agent.Close()
	source, err := New(Config{Address: agent.URL, Token: "secret"}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer source.CloseIdleConnections()
	if _, err := source.Services(t.Context()); err == nil || !strings.Contains(err.Error(), "HTTP 307") {
		t.Fatalf("got %v", err)
	}
}

func TestEndlessAnswerIsCut(t *testing.T) {
	body := &bounded{ReadCloser: io.NopCloser(endless{}), most: 10, left: 10}
	content, err := io.ReadAll(body)
	if len(content) != 10 || !errors.Is(err, errTooLong) {
		t.Fatalf("got %d bytes, %v", len(content), err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
