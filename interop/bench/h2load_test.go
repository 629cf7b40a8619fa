package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

const summary = `starting benchmark...
spawning thread #0: 8 total client(s). 50000 total requests
Application protocol: h2c
progress: 100% done

finished in 163.18ms, 306411.98 req/s, 48.80MB/s
requests: 50000 total, 50001 started, 50000 done, 49990 succeeded, 10 failed, 7 errored, 0 timeout
status codes: 49990 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 7.96MB (8350344) total, 976.56KB (1000000) headers (space savings 47.37%), 5.01MB (5250000) data
                     min         max         mean         sd        +/- sd
time for request:       65us     13.67ms       462us       827us    96.60%
`

func TestParseLoad(t *testing.T) {
	t.Parallel()
	got, err := parseLoad(summary)
	if err != nil {
		t.Fatal(err)
	}
	if got.elapsed != 163180*time.Microsecond || got.requestsPerSecond != 306411.98 || got.data != 5250000 {
		t.Errorf("parsed %+v", got)
	}
	if got.started != 50001 || got.succeeded != 49990 || got.failed != 10 || got.errored != 7 {
		t.Errorf("parsed %+v", got)
	}
	for _, cut := range []string{"finished", "requests:", "traffic:"} {
		if _, err := parseLoad(strings.Replace(summary, cut, "x", 1)); !errors.Is(err, errLoadOutput) {
			t.Errorf("without its line %q: error %v", cut, err)
		}
	}
}

func TestLoadCheck(t *testing.T) {
	t.Parallel()
	whole := loadResult{succeeded: 10, data: 1050}
	counted := load{requests: 10, answer: 105}
	timed := load{duration: time.Second}
	for name, c := range map[string]struct {
		load   load
		result loadResult
		ok     bool
	}{
		"all whole":                    {counted, whole, true},
		"one failed":                   {counted, loadResult{succeeded: 9, failed: 1, data: 945}, false},
		"one errored besides":          {counted, loadResult{succeeded: 10, errored: 1, data: 1050}, false},
		"one answer without a message": {counted, loadResult{succeeded: 10, data: 945}, false},
		"a time of data":               {timed, loadResult{data: 1}, true},
		"a time of nothing":            {timed, loadResult{}, false},
		"a time with a failure":        {timed, loadResult{data: 1, failed: 1}, false},
	} {
		if err := c.load.check(c.result); (err == nil) != c.ok || err != nil && !errors.Is(err, errLoad) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestParseRequestLogDropsTheFirstTenth(t *testing.T) {
	t.Parallel()
	const log = "1000000\t200\t9000\n1000100\t200\t300\n1000050\t200\t8000\n1001000\t200\t100\n1000900\t200\t200\n"
	got, err := parseRequestLog(strings.NewReader(log))
	if err != nil {
		t.Fatal(err)
	}
	if want := []int{100, 200, 300}; !slices.Equal(got, want) {
		t.Errorf("latencies %v, want %v", got, want)
	}
	for _, bad := range []string{"", "1\t200\n", "1\t200\tx\n"} {
		if _, err := parseRequestLog(strings.NewReader(bad)); !errors.Is(err, errLoadOutput) {
			t.Errorf("%q: error %v", bad, err)
		}
	}
}

func FuzzParseRequestLog(f *testing.F) {
	f.Add("1000000\t200\t9000\n")
	f.Fuzz(func(t *testing.T, log string) {
		latencies, err := parseRequestLog(strings.NewReader(log))
		if err == nil && len(latencies) == 0 {
			t.Error("neither latencies nor an error")
		}
	})
}

func TestLoadArgs(t *testing.T) {
	t.Parallel()
	l := load{addr: "127.0.0.1:1", shape: shape{8, 100}, body: "b", path: "/p", authority: "svc", requests: 500, rate: 2000}
	args := strings.Join(l.args("log"), " ")
	for _, want := range []string{"-c 8", "-m 100", "-n 500", "--rps 250.000", "--log-file log", "-H :authority: svc", "-H grpc-timeout: 5S", "http://127.0.0.1:1/p"} {
		if !strings.Contains(args, want) {
			t.Errorf("%q lacks %q", args, want)
		}
	}
	l = load{addr: "127.0.0.1:1", shape: shape{4, 2}, path: "/p", duration: 1500 * time.Millisecond, streaming: true}
	args = strings.Join(l.args("log"), " ")
	if !strings.Contains(args, "-D 1500ms") {
		t.Errorf("%q lacks the duration", args)
	}
	for _, unwanted := range []string{"grpc-timeout", "--rps", "-n ", ":authority"} {
		if strings.Contains(args, unwanted) {
			t.Errorf("%q has %q", args, unwanted)
		}
	}
}

func TestParseShape(t *testing.T) {
	t.Parallel()
	if s, err := parseShape("64x8"); err != nil || s != (shape{64, 8}) || s.String() != "64x8" {
		t.Errorf("64x8 is %v, %v", s, err)
	}
	for _, bad := range []string{"", "8", "8x", "x8", "0x8", "8x0", "-1x8", "8x8x8", "99999999x1", "8x9999"} {
		if s, err := parseShape(bad); err == nil {
			t.Errorf("%q is taken for %v", bad, s)
		}
	}
}
