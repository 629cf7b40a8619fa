package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestTablesShowRatiosToTheSubject(t *testing.T) {
	t.Parallel()
	o := &outcome{
		opts:    &options{shapes: []shape{{8, 32}}, settings: []string{"one"}, parts: []string{partUnary}, given: []string{"-rounds=3"}},
		results: results{},
		participants: []participant{
			{peer: &peer{name: pillionName, title: "Pillion"}},
			{peer: &peer{name: haproxyName, title: "HAProxy"}, release: "2.6.12"},
		},
		skipped: []*peer{{name: nginxName, title: "nginx", install: "apt-get install nginx"}},
	}
	for i, cpu := range []float64{4, 5, 6} {
		o.results.add(key{"one", pillionName, "8x32", cpuPerRPC}, cpu)
		o.results.add(key{"one", haproxyName, "8x32", cpuPerRPC}, 10+float64(i)*5)
	}
	o.results.add(key{"one", haproxyName, sceneStreaming, failedRuns}, 1)
	var b bytes.Buffer
	o.write(&b)
	text := b.String()
	for _, want := range []string{
		"Taken with `go run ./bench -rounds=3` on ",
		"nginx was not installed (apt-get install nginx).",
		"HAProxy 2.6.12",
		"15.00 |  0.33 (0.33) |",
		"Requests through HAProxy 2.6.12 failed in 1 runs (streaming), which were repeated.",
		"1 worker: CPU per RPC at 8x32 ÷ haproxy's",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the tables lack %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "NaN") {
		t.Errorf("the tables show what was not measured as a number:\n%s", text)
	}
	if strings.Contains(text, "Two workers") || strings.Contains(text, "Streaming:") {
		t.Errorf("the tables show what was not asked for:\n%s", text)
	}
}

func TestRatioOfTwoPillionsHasItsRange(t *testing.T) {
	t.Parallel()
	r, ok := compare([]float64{1, 2, 3}, []float64{2, 2, 2})
	if got, want := r.text(ok, true), "1.000 (1.000; 0.500 to 1.500)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := r.text(false, false); got != "-" {
		t.Errorf("nothing to compare shows %q", got)
	}
}

func TestTableColumnsLineUp(t *testing.T) {
	t.Parallel()
	tab := table{head: []string{"", "µs"}}
	tab.row("long name", "1.00")
	tab.row("x", "10.00")
	var b bytes.Buffer
	tab.write(&b)
	const want = "" +
		"|           |    µs |\n" +
		"| --------- | ----: |\n" +
		"| long name |  1.00 |\n" +
		"| x         | 10.00 |\n\n"
	if b.String() != want {
		t.Errorf("the table is\n%swant\n%s", b.String(), want)
	}
}
