package telemetry

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

// FuzzLabels puts any text where labels come from, a path and a service's name, and
// reads the scrape back: it must parse, say the same, and have no line too many.
func FuzzLabels(f *testing.F) {
	f.Add("/helloworld.Greeter/SayHello", "greeter")
	f.Add("/a\"\\b/c{}", "x\"} 1\nevil_total{a=\"b")
	f.Add("/\xff/\x00", "\xff\x00\u2028\r\n")
	f.Fuzz(func(t *testing.T, path, service string) {
		m := NewMetrics(Inbound)
		m.Learn(path, TypeBidiStream).Handled(codes.OK, time.Second)
		var c Counters
		c.Service(Outbound, service).Failed(wire.FlagOverload)
		text := scrape(t, m, &c)
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(strings.NewReader(text))
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		found := false
		for name, family := range families {
			if !strings.HasPrefix(name, "pillion_") && !strings.HasPrefix(name, "grpc_server_") {
				t.Fatalf("a metric called %q", name)
			}
			for _, metric := range family.GetMetric() {
				for _, label := range metric.GetLabel() {
					found = found || name == "pillion_rpc_failures_total" && label.GetName() == "service" &&
						label.GetValue() == strings.ToValidUTF8(service, "\uFFFD")
				}
			}
		}
		if !found {
			t.Fatalf("no failure of service %q in\n%s", service, text)
		}
	})
}
