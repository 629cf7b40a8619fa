package telemetry

import (
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
)

// scrape returns what a Prometheus server would read.
func scrape(t testing.TB, collectors ...prometheus.Collector) string {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	for _, c := range collectors {
		if err := registry.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("lint: %s: %s", p.Metric, p.Text)
	}
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}).
		ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	body, _ := io.ReadAll(w.Result().Body)
	if w.Code != 200 {
		t.Fatalf("scrape: %d: %s", w.Code, body)
	}
	return string(body)
}

// wantLines checks that each line stands in a scrape.
func wantLines(t *testing.T, scraped string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+scraped, "\n"+line+"\n") {
			t.Errorf("no line %q in the scrape:\n%s", line, scraped)
		}
	}
}

func TestScrape(t *testing.T) {
	t.Parallel()
	for _, kind := range []Kind{Outbound, Inbound} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			m := NewMetrics(kind)
			hello := m.Learn("/helloworld.Greeter/SayHello", TypeUnary)
			for _, code := range []codes.Code{codes.OK, codes.OK, codes.PermissionDenied, 99} {
				hello.Started()
				hello.Sent(1)
				hello.Received(2)
				hello.Handled(code, 30*time.Millisecond)
			}
			hello.Started() // goes on
			hello.Received(0)
			hello.Sent(-1)
			hello.Handled(codes.OK, -time.Second)
			m.Method("/no.Such/Method").Started()

			prefix, labels := "grpc_client_", `{grpc_method="SayHello",grpc_service="helloworld.Greeter",grpc_type="unary"}`
			if kind == Inbound {
				prefix = "grpc_server_"
			}
			coded := func(code string) string {
				return prefix + `handled_total{grpc_code="` + code + `",` + labels[1:]
			}
			bucket := func(le string) string {
				return prefix + "handling_seconds_bucket" + strings.Replace(labels, "}", `,le="`+le+`"}`, 1)
			}
			got := scrape(t, m)
			wantLines(t, got,
				prefix+"started_total"+labels+" 5",
				prefix+"msg_received_total"+labels+" 8",
				prefix+"msg_sent_total"+labels+" 4",
				coded("OK")+" 3",
				coded("PermissionDenied")+" 1",
				coded("Unknown")+" 1",
				bucket("0.0001")+" 1",
				bucket("0.025")+" 1",
				bucket("0.05")+" 5",
				bucket("10")+" 5",
				bucket("+Inf")+" 5",
				prefix+"handling_seconds_sum"+labels+" 0.12",
				prefix+"handling_seconds_count"+labels+" 5",
				prefix+`started_total{grpc_method="other",grpc_service="other",grpc_type="unknown"} 1`,
			)
			if strings.Contains(got, "NotFound") {
				t.Errorf("a code that did not occur is exported:\n%s", got)
			}
		})
	}
}

func TestBothDirectionsInOneRegistry(t *testing.T) {
	t.Parallel()
	wantLines(t, scrape(t, NewMetrics(Outbound), NewMetrics(Inbound), new(Counters), NewBuildInfo("v1.2.3", "abc", "go1.26")),
		`grpc_client_started_total{grpc_method="other",grpc_service="other",grpc_type="unknown"} 0`,
		`grpc_server_started_total{grpc_method="other",grpc_service="other",grpc_type="unknown"} 0`,
		`pillion_build_info{go="go1.26",revision="abc",version="v1.2.3"} 1`,
	)
}

func TestLearn(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		path, service, method string // no service: stays unknown
	}{
		{"/helloworld.Greeter/SayHello", "helloworld.Greeter", "SayHello"},
		{"/some/prefix/pkg.Svc/Do", "some/prefix/pkg.Svc", "Do"},
		{"/pkg.Größe/Do", "pkg.Größe", "Do"},
		{"/s/" + strings.Repeat("m", maxPath-3), "s", strings.Repeat("m", maxPath-3)},
		{"/s/" + strings.Repeat("m", maxPath-2), "", ""},
		{"", "", ""},
		{"/", "", ""},
		{"pkg.Svc/Do", "", ""},
		{"/pkg.Svc", "", ""},
		{"/pkg.Svc/", "", ""},
		{"/pkg.Svc/\xff", "", ""},
		{"/pkg.Svc/a b", "", ""},
		{"/pkg.Svc/a\nb", "", ""},
		{"/pkg.Svc/a\x7f", "", ""},
	} {
		m := NewMetrics(Inbound)
		if !m.Method(test.path).Other() {
			t.Errorf("%q is known before it was learned", test.path)
		}
		method := m.Learn(test.path, TypeUnknown)
		if method != m.Method(test.path) {
			t.Errorf("%q: what Learn returned is not what Method finds", test.path)
		}
		if known := test.service != ""; known == method.Other() {
			t.Errorf("%q: known %v, want %v", test.path, !method.Other(), known)
		} else if known && (method.service != test.service || method.method != test.method) {
			t.Errorf("%q is method %q of %q", test.path, method.method, method.service)
		}
	}
}

func TestLearnKeepsTheFirstType(t *testing.T) {
	t.Parallel()
	m := NewMetrics(Outbound)
	for _, step := range []struct{ learned, want RPCType }{
		{TypeUnknown, TypeUnknown},
		{TypeServerStream, TypeServerStream},
		{TypeUnknown, TypeServerStream},
		{TypeUnary, TypeServerStream},
	} {
		if got := RPCType(m.Learn("/s/m", step.learned).rpcType.Load()); got != step.want {
			t.Errorf("after learning %v the type is %v, want %v", step.learned, got, step.want)
		}
	}
	m.Learn("no path", TypeUnary)
	wantLines(t, scrape(t, m), `grpc_client_started_total{grpc_method="other",grpc_service="other",grpc_type="unknown"} 0`)
}

func TestLearnKeepsNothingOfTheCaller(t *testing.T) {
	t.Parallel()
	m := NewMetrics(Outbound)
	path := []byte("/s/m")
	m.Learn(unsafe.String(&path[0], len(path)), TypeUnary)
	copy(path, "????")
	if m.Method("/s/m").Other() {
		t.Error("the path was not copied")
	}
}

func TestLearnIsBounded(t *testing.T) {
	t.Parallel()
	for limit, want := range map[int]int{0: 2000, 7: 7} {
		m := NewLimitedMetrics(Outbound, MetricsLimits{Methods: limit})
		if m.MaxMethods() != want {
			t.Errorf("%d methods at most, want %d", m.MaxMethods(), want)
		}
		for i := range want {
			if m.Learn(fmt.Sprintf("/s/m%d", i), TypeUnary).Other() {
				t.Fatalf("method %d is other", i)
			}
		}
		if !m.Learn("/s/onemore", TypeUnary).Other() || !m.Method("/s/onemore").Other() {
			t.Error("a method beyond the bound is known")
		}
		if m.Learn("/s/m0", TypeUnary).Other() {
			t.Error("a known method was forgotten")
		}
	}
}

func TestLongPathsAreOther(t *testing.T) {
	t.Parallel()
	m := NewLimitedMetrics(Outbound, MetricsLimits{Path: 20})
	if path := "/s/" + strings.Repeat("m", 17); m.Learn(path, TypeUnary).Other() {
		t.Error("a path of 20 bytes is other")
	}
	if path := "/s/" + strings.Repeat("m", 18); !m.Learn(path, TypeUnary).Other() {
		t.Error("a path of 21 bytes is known")
	}
}

func TestTypes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		client, server bool
		want           string
	}{
		{false, false, "unary"}, {true, false, "client_stream"}, {false, true, "server_stream"}, {true, true, "bidi_stream"},
	} {
		if got := TypeOf(test.client, test.server).String(); got != test.want {
			t.Errorf("client streams %v, server streams %v: %q, want %q", test.client, test.server, got, test.want)
		}
	}
}

// TestConcurrently counts from several goroutines while others learn and
// scrape; nothing may be lost, and the race detector watches.
func TestConcurrently(t *testing.T) {
	t.Parallel()
	m := NewMetrics(Outbound)
	const workers, rpcs = 4, 2000
	hello := m.Learn("/s/hello", TypeUnary)
	var wg, scraper sync.WaitGroup
	stop := make(chan struct{})
	scraper.Go(func() {
		for {
			scrape(t, m)
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for w := range workers {
		wg.Go(func() {
			for i := range rpcs {
				if i%100 == 0 {
					m.Learn(fmt.Sprintf("/s/%d", i), RPCType(w))
				}
				method := m.Method("/s/hello")
				method.Started()
				method.Sent(1)
				method.Received(1)
				method.Handled(codes.Code(i%numCodes), time.Duration(i)*time.Microsecond)
			}
		})
	}
	wg.Wait()
	close(stop)
	scraper.Wait()
	count, _ := hello.took.snapshot()
	if want := uint64(workers * rpcs); hello.started.Load() != want || count != want {
		t.Errorf("%d started, %d handled, want %d", hello.started.Load(), count, want)
	}
}

func TestMethodFillsCacheLines(t *testing.T) {
	t.Parallel()
	if size := unsafe.Sizeof(Method{}); size%cacheLine != 0 {
		t.Errorf("a method is %d bytes long, no multiple of %d", size, cacheLine)
	}
	if end := unsafe.Offsetof(methodCounters{}.codes) + 8; end > cacheLine {
		t.Errorf("what every RPC touches is %d bytes long, over %d", end, cacheLine)
	}
}

// FuzzLearn shows that no path can make a scrape fail.
func FuzzLearn(f *testing.F) {
	f.Add("/helloworld.Greeter/SayHello")
	f.Add("/\xff/\x00")
	f.Fuzz(func(t *testing.T, path string) {
		m := NewMetrics(Inbound)
		m.Learn(path, TypeBidiStream).Handled(codes.OK, time.Second)
		scrape(t, m)
	})
}

func countRPC(m *Metrics, path string) {
	method := m.Method(path)
	method.Started()
	method.Sent(1)
	method.Received(1)
	method.Handled(codes.OK, 300*time.Microsecond)
}

func TestCountingAllocatesNothing(t *testing.T) {
	m := NewMetrics(Outbound)
	m.Learn("/helloworld.Greeter/SayHello", TypeUnary)
	var c Counters
	s := c.Service(Outbound, "greeter")
	if n := testing.AllocsPerRun(100, func() {
		countRPC(m, "/helloworld.Greeter/SayHello")
		countRPC(m, "/not.Known/Method")
		s.Attempts.Add(1)
		s.Failed(1)
	}); n != 0 {
		t.Errorf("%v allocations per RPC", n)
	}
}

func BenchmarkRPC(b *testing.B) {
	m := NewMetrics(Outbound)
	for i := range 100 {
		m.Learn(fmt.Sprintf("/helloworld.Greeter/SayHello%d", i), TypeUnary)
	}
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			countRPC(m, "/helloworld.Greeter/SayHello7")
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				countRPC(m, "/helloworld.Greeter/SayHello7")
			}
		})
	})
}
