package mesh

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Any sidecar says what the elected one has counted, whether it reports to it or not.
func TestAsk(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		bystander := r.add("bystander", func(o *Options) { o.Candidacy = Never })
		if _, err := bystander.Evidence(t.Context(), greeter, "new"); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("while nobody is elected it is told %v", err)
		}
		all := append(r.several(2), bystander)
		l := r.elect()
		for _, s := range all {
			evidence, err := s.Evidence(t.Context(), greeter, "new")
			if err != nil || evidence.GetWaiting() != "counted by "+l.by.id {
				t.Errorf("%s says %v, %v", s.id, evidence, err)
			}
			results, err := s.Results(t.Context(), greeter, "new")
			if err != nil || results.GetSidecars() != 7 {
				t.Errorf("%s says %v, %v", s.id, results, err)
			}
			_, noCanary := s.Evidence(t.Context(), greeter, "old")
			_, noExperiment := s.Results(t.Context(), greeter, "old")
			_, noService := s.Results(t.Context(), "a\nb", "old")
			if status.Code(noCanary) != codes.NotFound || status.Code(noExperiment) != codes.NotFound || status.Code(noService) != codes.InvalidArgument {
				t.Errorf("%s says %v, %v, %v", s.id, noCanary, noExperiment, noService)
			}
		}
		l.by.kill()
		began := time.Now()
		_, err := bystander.Evidence(t.Context(), greeter, "new")
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), l.by.id+" at "+l.by.address) || time.Since(began) > storeTimeout {
			t.Errorf("of who does not answer it says after %v: %v", time.Since(began), err)
		}
	})
}
