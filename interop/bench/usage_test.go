package main

import (
	"os"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	const line = "4711 (a (b) 1 2 c) S 17 4711 4711 0 -1 4194560 1 2 3 4 150 25 6 7 20 0 1 0 99 1 2\n"
	got, err := parseStat([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	if got.parent != 17 || got.cpu != 1750*time.Millisecond {
		t.Errorf("parsed %+v, want parent 17 and 1.75s", got)
	}
	for _, bad := range []string{"", "1 (x) S 1", "1 (x", "1 (x) S y 1 1 0 -1 0 1 2 3 4 5 6 0"} {
		if s, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is taken for %+v", bad, s)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("4711 (a (b) 1 2 c) S 17 4711 4711 0 -1 4194560 1 2 3 4 150 25 6 7 20"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseStat(b) })
}

func TestParseMemory(t *testing.T) {
	t.Parallel()
	got, err := parseMemory("Name:\tx\nVmHWM:\t    3000 kB\nVmRSS:\t    2000 kB\nThreads:\t1\n")
	if err != nil {
		t.Fatal(err)
	}
	if got.now != 2000<<10 || got.peak != 3000<<10 {
		t.Errorf("parsed %+v, want 2000 and 3000 KiB", got)
	}
	for _, bad := range []string{"", "VmHWM: 1 kB\n", "VmHWM: 1 kB\nVmRSS: 1\n", "VmHWM: 1 kB\nVmRSS: x kB\n"} {
		if m, err := parseMemory(bad); err == nil {
			t.Errorf("%q is taken for %+v", bad, m)
		}
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	pid := os.Getpid()
	before, err := cpuTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 10*clockTick; {
		_, _ = parseStat([]byte("1 (busy) S"))
	}
	after, err := cpuTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	if after <= before {
		t.Errorf("no CPU time was used: %v, then %v", before, after)
	}
	m, err := residentMemory(pid)
	if err != nil {
		t.Fatal(err)
	}
	if m.now == 0 || m.peak < m.now/2 {
		t.Errorf("memory %+v", m)
	}
}
