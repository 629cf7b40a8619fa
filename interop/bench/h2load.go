package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// h2loadHint says how to get the load generator.
const h2loadHint = "apt-get install nghttp2-client"

// load is one run of h2load.
type load struct {
	addr  string
	shape shape
	// body is the file that each request sends.
	body string
	// path and authority are what is asked for; an empty authority is addr.
	path, authority string
	// more are further paths, asked for in turn with path, and headers go with each
	// request beside the usual ones.
	more, headers []string
	// requests is how many to send. It is 0 where duration is set.
	requests int
	// duration runs for a time whatever is answered; streams that have not
	// ended by then are cut off.
	duration time.Duration
	// rate is how many requests to begin per second on all connections
	// together; 0 begins one whenever another ends.
	rate float64
	// answer is how many bytes of DATA each answer must have.
	answer int64
	// streaming is set where answers may take longer than an RPC's deadline: the
	// requests have none then.
	streaming bool
	core      int
	// background lets every other process on the core go first.
	background bool
}

// shape is how many connections a load has, and how many streams at most each
// carries at a time.
type shape struct{ conns, streams int }

func (s shape) String() string { return fmt.Sprintf("%dx%d", s.conns, s.streams) }

// parseShape reads "8x32".
func parseShape(text string) (shape, error) {
	conns, streams, ok := strings.Cut(text, "x")
	c, errC := strconv.ParseUint(conns, 10, 16)
	s, errS := strconv.ParseUint(streams, 10, 10)
	if !ok || errC != nil || errS != nil || c == 0 || s == 0 {
		return shape{}, fmt.Errorf("shape %q: want CONNECTIONSxSTREAMS, such as 8x32", text)
	}
	return shape{int(c), int(s)}, nil
}

// loadResult is what h2load says of a run.
type loadResult struct {
	elapsed                             time.Duration
	requestsPerSecond                   float64
	started, succeeded, failed, errored int
	// data counts the bytes of DATA in answers.
	data int64
	// latencies are the requests' durations in microseconds, in ascending
	// order, where the load had a rate. Those of the first tenth of the run
	// are left out: connections are made and buffers grow in it.
	latencies []int
}

var errLoad = errors.New("requests failed")

// niceness is the priority of a load in the background (nice(2)).
const niceness = 10

// loadGrace is how much longer than planned a load may take.
const loadGrace = 60 * time.Second

// Headers as a grpc-go client sends them, with one of the user's own.
var loadHeaders = []string{
	"content-type: application/grpc",
	"te: trailers",
	"user-agent: grpc-go/1.85.0",
	"x-user-id: 12345",
}

const loadDeadline = "grpc-timeout: 5S"

// h2load is the load generator.
type h2load struct {
	bin string
	// dir is where its logs go.
	dir string
}

func findH2load(dir string) (*h2load, error) {
	bin, err := exec.LookPath("h2load")
	if err != nil {
		return nil, fmt.Errorf("h2load, which makes the load, is not installed: %s", h2loadHint)
	}
	return &h2load{bin: bin, dir: dir}, nil
}

// args is h2load's command line for l, without the program.
func (l load) args(logPath string) []string {
	args := []string{
		"-c", strconv.Itoa(l.shape.conns),
		"-m", strconv.Itoa(l.shape.streams),
		"-w", "20", "-W", "24", // windows of 1 and 16 MiB
		"-d", l.body,
	}
	headers := loadHeaders
	if !l.streaming {
		headers = append([]string{loadDeadline}, headers...)
	}
	if l.duration > 0 {
		args = append(args, "-D", strconv.FormatInt(l.duration.Milliseconds(), 10)+"ms")
	} else {
		args = append(args, "-n", strconv.Itoa(l.requests))
	}
	if l.rate > 0 {
		args = append(args, "--rps", strconv.FormatFloat(l.rate/float64(l.shape.conns), 'f', 3, 64), "--log-file", logPath)
	}
	if l.authority != "" {
		headers = append([]string{":authority: " + l.authority}, headers...)
	}
	for _, h := range slices.Concat(headers, l.headers) {
		args = append(args, "-H", h)
	}
	args = append(args, "http://"+l.addr+l.path)
	for _, path := range l.more {
		args = append(args, "http://"+l.addr+path)
	}
	return args
}

// planned is how long l is thought to take.
func (l load) planned() time.Duration {
	if l.rate > 0 {
		return time.Duration(float64(l.requests) / l.rate * float64(time.Second))
	}
	return l.duration
}

// run makes the load. A single failed or short answer is an error: gRPC tells
// failure in an answer that is otherwise like any other, so the bytes of DATA
// are counted too.
func (h *h2load) run(ctx context.Context, l load) (loadResult, error) {
	ctx, cancel := context.WithTimeout(ctx, l.planned()+loadGrace)
	defer cancel()
	requestLog := filepath.Join(h.dir, "requests.log")
	if l.rate > 0 {
		// h2load appends to a log that is there.
		if err := os.Remove(requestLog); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return loadResult{}, fmt.Errorf("h2load's log: %w", err)
		}
	}
	cmd := exec.CommandContext(ctx, h.bin, l.args(requestLog)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := onCore(l.core, cmd.Start); err != nil {
		return loadResult{}, fmt.Errorf("h2load: starting: %w", err)
	}
	if l.background {
		if err := unix.Setpriority(unix.PRIO_PROCESS, cmd.Process.Pid, niceness); err != nil {
			cancel()
			_ = cmd.Wait()
			return loadResult{}, fmt.Errorf("h2load: lowering its priority: %w", err)
		}
	}
	if err := cmd.Wait(); err != nil {
		return loadResult{}, fmt.Errorf("h2load: %w: %s", errors.Join(err, ctx.Err()), lastLines(out.String()))
	}
	result, err := parseLoad(out.String())
	if err != nil {
		return loadResult{}, fmt.Errorf("h2load: %w: %s", err, lastLines(out.String()))
	}
	if err := l.check(result); err != nil {
		return loadResult{}, err
	}
	if l.rate > 0 {
		f, err := os.Open(requestLog)
		if err != nil {
			return loadResult{}, fmt.Errorf("h2load: %w", err)
		}
		defer func() { _ = f.Close() }()
		if result.latencies, err = parseRequestLog(f); err != nil {
			return loadResult{}, err
		}
	}
	return result, nil
}

// check fails where not every answer was whole.
func (l load) check(r loadResult) error {
	if l.duration > 0 {
		if r.failed+r.errored > 0 || r.data == 0 {
			return fmt.Errorf("%w: %d failed, %d errored, %d bytes received", errLoad, r.failed, r.errored, r.data)
		}
		return nil
	}
	if r.succeeded != l.requests || r.failed+r.errored > 0 {
		return fmt.Errorf("%w: %d of %d succeeded, %d failed, %d errored", errLoad, r.succeeded, l.requests, r.failed, r.errored)
	}
	if want := int64(l.requests) * l.answer; r.data != want {
		return fmt.Errorf("%w: the answers have %d bytes of DATA, not %d: some carry a gRPC error, or are cut short", errLoad, r.data, want)
	}
	return nil
}

var (
	finishedLine = regexp.MustCompile(`(?m)^finished in ([0-9.]+(?:us|ms|s)), ([0-9.]+) req/s`)
	requestsLine = regexp.MustCompile(`(?m)^requests: \d+ total, (\d+) started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored`)
	trafficLine  = regexp.MustCompile(`(?m)^traffic: .*\((\d+)\) data$`)

	errLoadOutput = errors.New("cannot make sense of its output")
)

// parseLoad reads h2load's summary.
func parseLoad(out string) (loadResult, error) {
	finished := finishedLine.FindStringSubmatch(out)
	requests := requestsLine.FindStringSubmatch(out)
	traffic := trafficLine.FindStringSubmatch(out)
	if finished == nil || requests == nil || traffic == nil {
		return loadResult{}, errLoadOutput
	}
	var r loadResult
	var err error
	if r.elapsed, err = time.ParseDuration(finished[1]); err != nil {
		return loadResult{}, fmt.Errorf("%w: %w", errLoadOutput, err)
	}
	if r.requestsPerSecond, err = strconv.ParseFloat(finished[2], 64); err != nil {
		return loadResult{}, fmt.Errorf("%w: %w", errLoadOutput, err)
	}
	for i, into := range []*int{&r.started, &r.succeeded, &r.failed, &r.errored} {
		if *into, err = strconv.Atoi(requests[i+1]); err != nil {
			return loadResult{}, fmt.Errorf("%w: %w", errLoadOutput, err)
		}
	}
	if r.data, err = strconv.ParseInt(traffic[1], 10, 64); err != nil {
		return loadResult{}, fmt.Errorf("%w: %w", errLoadOutput, err)
	}
	return r, nil
}

// parseRequestLog reads h2load's --log-file: the start in microseconds since
// the epoch, the HTTP status and the duration in microseconds, separated by
// tabs.
func parseRequestLog(r io.Reader) ([]int, error) {
	type request struct{ start, took int }
	var requests []request
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t")
		if len(fields) < 3 {
			return nil, fmt.Errorf("h2load's log: %w: %q", errLoadOutput, lines.Text())
		}
		start, err := strconv.Atoi(fields[0])
		took, err2 := strconv.Atoi(fields[2])
		if err := errors.Join(err, err2); err != nil {
			return nil, fmt.Errorf("h2load's log: %w: %w", errLoadOutput, err)
		}
		requests = append(requests, request{start, took})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("h2load's log: %w", err)
	}
	if len(requests) == 0 {
		return nil, fmt.Errorf("h2load's log is empty: %w", errLoadOutput)
	}
	byStart := func(a, b request) int { return a.start - b.start }
	first := slices.MinFunc(requests, byStart).start
	last := slices.MaxFunc(requests, byStart).start
	steady := first + (last-first)/10
	var latencies []int
	for _, q := range requests {
		if q.start >= steady {
			latencies = append(latencies, q.took)
		}
	}
	slices.Sort(latencies)
	return latencies, nil
}

func lastLines(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return strings.Join(lines[max(0, len(lines)-logTail):], "\n    ")
}
