package main

import (
	"strings"
	"testing"
)

func TestMachine(t *testing.T) {
	t.Parallel()
	if got := cpuModel("processor\t: 0\nmodel name\t: AMD EPYC 9R14\nmodel name\t: other\n"); got != "AMD EPYC 9R14" {
		t.Errorf("model %q", got)
	}
	if got := cpuModel("nothing of the kind\n"); got != "" {
		t.Errorf("model %q out of nothing", got)
	}
	if got := kernelVersion("6.1.0-18-cloud-amd64"); got != "6.1.0" {
		t.Errorf("kernel %q", got)
	}
	if got := machine(); strings.Contains(got, "\n") || !strings.Contains(got, "cores") {
		t.Errorf("machine %q, want one line with the number of cores", got)
	}
}
