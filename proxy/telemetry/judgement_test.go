package telemetry

import (
	"strings"
	"testing"
)

func TestJudgement(t *testing.T) {
	t.Parallel()
	var c Counters
	c.Service(Outbound, "other")
	c.Service(Inbound, "greeter").Judgement.InForce.Store(true) // the local app is not judged
	j := &c.Service(Outbound, "greeter").Judgement
	if got := scrape(t, &c); strings.Contains(got, "pillion_ejections") || strings.Contains(got, "pillion_blocked") {
		t.Errorf("without a policy there is\n%s", got)
	}
	j.InForce.Store(true)
	j.Ejections[1].Add(2)
	j.EjectionsHeld.Add(3)
	j.HealthChecks[0].Add(4)
	j.HealthChecks[1].Add(5)
	j.BreakerOpenings.Add(6)
	j.Blocked[0].Add(7)
	j.Blocked[2].Add(8)
	got := scrape(t, &c)
	wantLines(t, got,
		`pillion_ejections_total{reason="consecutive_failures",service="greeter"} 0`,
		`pillion_ejections_total{reason="success_rate",service="greeter"} 2`,
		`pillion_ejections_total{reason="failure_percentage",service="greeter"} 0`,
		`pillion_ejections_held_total{service="greeter"} 3`,
		`pillion_health_checks_total{result="good",service="greeter"} 4`,
		`pillion_health_checks_total{result="bad",service="greeter"} 5`,
		`pillion_instance_breaker_openings_total{service="greeter"} 6`,
		`pillion_blocked_instances{reason="ejected",service="greeter"} 7`,
		`pillion_blocked_instances{reason="unhealthy",service="greeter"} 0`,
		`pillion_blocked_instances{reason="broken",service="greeter"} 8`,
	)
	if strings.Contains(got, `pillion_ejections_held_total{service="other"}`) {
		t.Error("a service that nobody judges is exported")
	}
}
