package telemetry

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

func TestCounters(t *testing.T) {
	t.Parallel()
	var c Counters
	greeter := c.Service(Outbound, "greeter")
	greeter.Attempts.Add(5)
	greeter.TransparentRetries.Add(2)
	greeter.ConnectFailures.Add(1)
	greeter.Connections.Add(3)
	greeter.Failed(wire.FlagNoHealthyUpstream)
	greeter.Failed(wire.FlagNone)
	greeter.Failed(200)
	c.Service(Outbound, "").Failed(wire.FlagNoRoute)
	c.Service(Inbound, "greeter").Attempts.Add(1)
	c.DownstreamConnections[Inbound].Add(4)
	c.BufferedBytes.Add(4096)
	c.AccessLogDropped.Add(9)

	got := scrape(t, &c)
	wantLines(t, got,
		`pillion_attempts_total{service="greeter",side="outbound"} 5`,
		`pillion_attempts_total{service="greeter",side="inbound"} 1`,
		`pillion_transparent_retries_total{service="greeter",side="outbound"} 2`,
		`pillion_connect_failures_total{service="greeter",side="outbound"} 1`,
		`pillion_upstream_connections{service="greeter",side="outbound"} 3`,
		`pillion_rpc_failures_total{flag="UH",service="greeter",side="outbound"} 1`,
		`pillion_rpc_failures_total{flag="NR",service="",side="outbound"} 1`,
		`pillion_downstream_connections{side="outbound"} 0`,
		`pillion_downstream_connections{side="inbound"} 4`,
		`pillion_buffered_bytes 4096`,
		`pillion_access_log_dropped_total 9`,
	)
	if n := strings.Count(got, "pillion_rpc_failures_total{"); n != 2 {
		t.Errorf("%d failures exported, want the 2 that occurred", n)
	}
}

func TestCountersServiceIsTheSameAgain(t *testing.T) {
	t.Parallel()
	var c Counters
	if c.Service(Outbound, "a") != c.Service(Outbound, "a") {
		t.Error("two sets of counters for one service")
	}
	if c.Service(Outbound, "a") == c.Service(Inbound, "a") {
		t.Error("the directions share counters")
	}
	if c.Service(Outbound, "\xff") != c.Service(Outbound, "\xff") {
		t.Error("two sets of counters for one service whose name is no UTF-8")
	}
	scrape(t, &c)
}

func TestCountersServicesAreBounded(t *testing.T) {
	t.Parallel()
	for limit, want := range map[int]int{0: 1000, 3: 3} {
		c := Counters{MaxServices: limit}
		for i := range want {
			c.Service(Outbound, fmt.Sprint(i))
		}
		shared := c.Service(Outbound, "x")
		if shared != c.Service(Outbound, "y") {
			t.Error("services beyond the bound have counters of their own")
		}
		if c.Service(Outbound, "0") == shared {
			t.Error("a known service lost its counters")
		}
		if known := c.known(Outbound); len(known) != want+1 || known["other"] != shared {
			t.Errorf("%d services, want %d and %q", len(known), want, "other")
		}
	}
}
