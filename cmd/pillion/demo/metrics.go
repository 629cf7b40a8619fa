package demo

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// metrics are what a sidecar's /metrics said. A nil one says 0 of everything.
type metrics map[string]*dto.MetricFamily

// scrapeTimeout is how long a sidecar may take to say its metrics.
const scrapeTimeout = 2 * time.Second

// scrape asks the sidecar at an admin address for its metrics.
func scrape(ctx context.Context, admin string) (metrics, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), scrapeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(resp.Body)
}

// labels are those that a metric has to have.
type labels map[string]string

// sum adds up what the metrics of a name say that have all these labels.
func (m metrics) sum(name string, with labels) (n float64) {
	for _, one := range m[name].GetMetric() {
		has := make(labels, len(one.GetLabel()))
		for _, l := range one.GetLabel() {
			if _, asked := with[l.GetName()]; asked {
				has[l.GetName()] = l.GetValue()
			}
		}
		if maps.Equal(has, with) {
			n += one.GetCounter().GetValue() + one.GetGauge().GetValue()
		}
	}
	return n
}

// sumOf adds up what several sidecars say.
func sumOf(all []metrics, name string, with labels) (n float64) {
	for _, m := range all {
		n += m.sum(name, with)
	}
	return n
}
