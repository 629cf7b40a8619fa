package demo

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestMetrics(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `# TYPE rpcs_total counter
rpcs_total{side="outbound",service="a"} 3
rpcs_total{side="outbound",service="b"} 4
rpcs_total{side="inbound",service="a"} 5
# TYPE open gauge
open 2
`)
	}))
	defer server.Close()
	m, err := scrape(t.Context(), strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		with labels
		want float64
	}{
		{"rpcs_total", nil, 12},
		{"rpcs_total", labels{"side": "outbound"}, 7},
		{"rpcs_total", labels{"side": "outbound", "service": "a"}, 3},
		{"rpcs_total", labels{"flag": "UO"}, 0},
		{"open", nil, 2},
		{"other", nil, 0},
	} {
		if got := m.sum(c.name, c.with); got != c.want {
			t.Errorf("%s%v is %v, want %v", c.name, c.with, got, c.want)
		}
	}
	if got := sumOf([]metrics{m, nil, m}, "open", nil); got != 4 {
		t.Errorf("of two sidecars it is %v, want 4", got)
	}
	if _, err := scrape(t.Context(), "127.0.0.1:1"); err == nil {
		t.Error("nobody answered, and that is no error")
	}
}
