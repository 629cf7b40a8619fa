package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

// lines reads a log back. A line that is no JSON fails the test.
func lines(t testing.TB, log []byte) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range bytes.Lines(log) {
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		all = append(all, fields)
	}
	return all
}

func closeLog(t testing.TB, l *AccessLog) {
	t.Helper()
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestWant(t *testing.T) {
	t.Parallel()
	half := uint64(math.MaxUint64 / 2)
	for _, test := range []struct {
		name           string
		sample         float64
		errors         bool
		random         uint64
		wantOK, wantNo bool
	}{
		{"nothing", 0, false, 0, false, false},
		{"errors only", 0, true, 0, false, true},
		{"all", 1, false, math.MaxUint64, true, true},
		{"more than all", 7, false, math.MaxUint64, true, true},
		{"below half", 0.5, false, half - 1024, true, true},
		{"above half", 0.5, false, half + 1024, false, false},
		{"above half, errors always", 0.5, true, half + 1024, false, true},
		{"no number", math.NaN(), false, 0, false, false},
		{"negative", -1, false, 0, false, false},
	} {
		l := NewAccessLog(io.Discard, AccessLogOptions{Sample: test.sample, Errors: test.errors, Random: func() uint64 { return test.random }})
		if got := l.Want(codes.OK); got != test.wantOK {
			t.Errorf("%s: an RPC that is OK: %v, want %v", test.name, got, test.wantOK)
		}
		if got := l.Want(codes.NotFound); got != test.wantNo {
			t.Errorf("%s: an RPC that is not: %v, want %v", test.name, got, test.wantNo)
		}
		closeLog(t, l)
	}
}

func TestNoAccessLog(t *testing.T) {
	t.Parallel()
	var l *AccessLog
	if l.Want(codes.Internal) {
		t.Error("no log wants an RPC")
	}
	l.Log(&Record{})
	if err := errors.Join(l.Reopen(), l.Close(t.Context())); err != nil {
		t.Error(err)
	}
}

func TestSampleShare(t *testing.T) {
	t.Parallel()
	l := NewAccessLog(io.Discard, AccessLogOptions{Sample: 0.25})
	defer closeLog(t, l)
	const n = 100_000
	wanted := 0
	for range n {
		if l.Want(codes.OK) {
			wanted++
		}
	}
	if share := float64(wanted) / n; math.Abs(share-0.25) > 0.01 { // 7 sigma
		t.Errorf("a share of %v is logged, want 0.25", share)
	}
}

// exampleRecord is the RPC that docs/access-log.md shows the line of.
func exampleRecord() *Record {
	return &Record{
		Start:            time.Date(2026, 3, 14, 9, 26, 53, 589793000, time.UTC),
		Duration:         254*time.Millisecond + 817*time.Microsecond,
		UpstreamDuration: 250*time.Millisecond + 3*time.Microsecond + 400,
		Side:             Outbound,
		Peer:             "127.0.0.1:41234",
		Authority:        "greeter",
		Source:           "web",
		Path:             "/helloworld.Greeter/SayHello",
		Service:          "greeter",
		Route:            "authority",
		Instance:         "10.0.0.7:50051",
		Attempts:         2,
		Code:             codes.DeadlineExceeded,
		Message:          `greeter: no answer within 250ms from "10.0.0.7:50051"`,
		Flag:             wire.FlagDeadline,
		HTTPStatus:       200,
		RequestMessages:  1,
		ResponseMessages: 0,
		RequestBytes:     105,
		ResponseBytes:    0,
	}
}

// TestDocumentedExample holds docs/access-log.md to what is written: its example
// line, and that it explains each key.
func TestDocumentedExample(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/access-log.md")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	l := NewAccessLog(&log, AccessLogOptions{})
	l.Log(exampleRecord())
	closeLog(t, l)

	_, rest, _ := strings.Cut(string(doc), "```json\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("no example in docs/access-log.md")
	}
	var got, want bytes.Buffer
	if err := errors.Join(json.Compact(&got, log.Bytes()), json.Compact(&want, []byte(example))); err != nil {
		t.Fatal(err)
	}
	if got.String() != want.String() {
		t.Errorf("docs/access-log.md shows\n%s\nbut written is\n%s", &want, &got)
	}
	for key := range lines(t, log.Bytes())[0] {
		if !bytes.Contains(doc, []byte("| `"+key+"` |")) {
			t.Errorf("docs/access-log.md does not explain %q", key)
		}
	}
}

func TestLogCopiesWhatItIsGiven(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		l := NewAccessLog(&log, AccessLogOptions{})
		r := exampleRecord()
		l.Log(r)
		*r = Record{Path: "/another.Service/Method"}
		l.Log(r)
		closeLog(t, l)
		got := lines(t, log.Bytes())
		if len(got) != 2 || got[0]["path"] != "/helloworld.Greeter/SayHello" || got[1]["path"] != "/another.Service/Method" {
			t.Errorf("written: %v", got)
		}
	})
}

// TestHostileStrings shows that whatever a caller sends makes one line of valid
// JSON, of bounded length, with each string where it belongs.
func TestHostileStrings(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var log bytes.Buffer
		l := NewAccessLog(&log, AccessLogOptions{})
		var want []*Record
		text := rapid.OneOf(rapid.String(), rapid.StringN(0, 3000, 3000), rapid.Custom(func(t *rapid.T) string {
			return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		}))
		for range rapid.IntRange(1, 4).Draw(rt, "RPCs") {
			r := &Record{
				Peer: text.Draw(rt, "peer"), Authority: text.Draw(rt, "authority"), Path: text.Draw(rt, "path"),
				Service: text.Draw(rt, "service"), Route: text.Draw(rt, "route"), Instance: text.Draw(rt, "instance"),
				Groups:  rapid.SliceOfN(text, 0, 3).Draw(rt, "groups"),
				Message: text.Draw(rt, "message"), Code: codes.Code(rapid.Uint32().Draw(rt, "code")), Flag: wire.Flag(rapid.Uint8().Draw(rt, "flag")),
			}
			want = append(want, r)
			copied := *r
			l.Log(&copied)
			if !reflect.DeepEqual(copied, *r) {
				rt.Fatal("Log changed the record")
			}
		}
		closeLog(t, l)
		got := lines(t, log.Bytes())
		if len(got) != len(want) {
			rt.Fatalf("%d lines, want %d", len(got), len(want))
		}
		for i, r := range want {
			for key, s := range map[string]string{"peer": clip(r.Peer, maxLoggedName), "path": clip(r.Path, maxLoggedPath), "group": clip(strings.Join(r.Groups, ","), maxLoggedName), "message": clip(r.Message, maxLoggedMessage), "instance": clip(r.Instance, maxLoggedName)} {
				if got[i][key] != s {
					rt.Errorf("%s is %q, want %q", key, got[i][key], s)
				}
			}
		}
	})
}

// clip returns what JSON can say of the first n bytes of s.
func clip(s string, n int) string {
	var clipped string
	quoted, _ := json.Marshal(s[:min(len(s), n)])
	_ = json.Unmarshal(quoted, &clipped)
	return clipped
}

// lockedBuffer is a buffer that a timer may write to while the test reads.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// gatedWriter lets each write through only when the test says so, and may fail.
type gatedWriter struct {
	bytes.Buffer
	gate chan error // what the next write returns
}

func (w *gatedWriter) Write(p []byte) (int, error) {
	if err := <-w.gate; err != nil {
		n, _ := w.Buffer.Write(p[:len(p)/2])
		return n, err
	}
	return w.Buffer.Write(p)
}

func TestFullQueueDropsAndSaysSoOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &gatedWriter{gate: make(chan error)}
		var (
			warnings lockedBuffer
			dropped  atomic.Uint64
		)
		l := NewAccessLog(w, AccessLogOptions{Queue: 3, Dropped: &dropped, Logger: slog.New(slog.NewTextHandler(&warnings, nil))})
		l.Log(&Record{Attempts: 1})
		time.Sleep(2 * gather)
		synctest.Wait() // the writer waits for the gate now
		for i := range 10 {
			l.Log(&Record{Attempts: 2 + i})
		}
		if got := dropped.Load(); got != 7 {
			t.Errorf("%d dropped, want 7", got)
		}
		if got := warnings.String(); got != "" {
			t.Errorf("warned before the interval was over: %s", got)
		}
		time.Sleep(reportEvery)
		synctest.Wait()
		if got := warnings.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "rpcs=7") || !strings.Contains(got, "lower access_log.sample") {
			t.Errorf("warnings: %s", got)
		}
		time.Sleep(2 * reportEvery)
		synctest.Wait()
		if strings.Count(warnings.String(), "\n") != 1 {
			t.Errorf("warned again of nothing: %s", warnings.String())
		}
		close(w.gate)
		closeLog(t, l)
		if got := lines(t, w.Bytes()); len(got) != 4 || got[3]["attempts"] != 4.0 {
			t.Errorf("written: %v", got)
		}
		l.Log(&Record{})
		if got := dropped.Load(); got != 8 {
			t.Errorf("%d dropped after Close, want 8", got)
		}
	})
}

func TestFailedWriteIsReportedAndTheLogGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &gatedWriter{gate: make(chan error, 10)}
		var (
			warnings lockedBuffer
			dropped  atomic.Uint64
		)
		l := NewAccessLog(w, AccessLogOptions{Dropped: &dropped, Logger: slog.New(slog.NewTextHandler(&warnings, nil))})
		w.gate <- errors.New("no space left on device")
		l.Log(&Record{Path: "/s/lost"})
		time.Sleep(2 * gather)
		synctest.Wait()
		close(w.gate)
		l.Log(&Record{Path: "/s/kept"})
		closeLog(t, l)
		if got := dropped.Load(); got != 1 {
			t.Errorf("%d dropped, want 1", got)
		}
		torn, kept, ok := bytes.Cut(w.Bytes(), []byte("\n"))
		if !ok || len(torn) == 0 {
			t.Fatalf("after half a line no new one began: %q", w.Bytes())
		}
		if got := lines(t, kept); len(got) != 1 || got[0]["path"] != "/s/kept" {
			t.Errorf("written: %v", got)
		}
		if got := warnings.String(); !strings.Contains(got, "no space left on device") {
			t.Errorf("warnings: %s", got)
		}
	})
}

func TestCloseGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &gatedWriter{gate: make(chan error)}
		l := NewAccessLog(w, AccessLogOptions{})
		l.Log(&Record{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Close returned %v", err)
		}
		close(w.gate)
		closeLog(t, l)
	})
}

// TestFewWrites shows that many RPCs share a write.
func TestFewWrites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var w countingWriter
		l := NewAccessLog(&w, AccessLogOptions{})
		for range 1000 {
			l.Log(exampleRecord())
		}
		closeLog(t, l)
		if w.lines != 1000 || w.writes > 1000*1024/flushAt {
			t.Errorf("%d writes for %d lines", w.writes, w.lines)
		}
	})
}

type countingWriter struct{ writes, lines int }

// written returns how many lines went to a countingWriter.
func (s *sink) written() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.(*countingWriter).lines
}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.writes++
	w.lines += bytes.Count(p, []byte("\n"))
	return len(p), nil
}

func TestFileIsAppendedToAndReopened(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "access.log")
	if err := os.WriteFile(path, []byte("{\"path\":\"before\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := OpenAccessLog(path, AccessLogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Log(&Record{Path: "/s/after"})
	closeLog(t, l)
	closeLog(t, l) // again: no error
	for file, want := range map[string]string{path + ".1": "before", path: "/s/after"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := lines(t, content); len(got) != 1 || got[0]["path"] != want {
			t.Errorf("%s holds %v, want the line of %s", file, got, want)
		}
	}
	if err := l.Reopen(); err != nil {
		t.Errorf("after Close: %v", err)
	}
}

func TestReopenKeepsTheFileOnError(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := OpenAccessLog(filepath.Join(dir, "access.log"), AccessLogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err == nil {
		t.Error("a folder that is gone is no error")
	}
	l.Log(&Record{Path: "/s/m"})
	closeLog(t, l)
	content, err := os.ReadFile(filepath.Join(dir+".1", "access.log"))
	if err != nil || len(lines(t, content)) != 1 {
		t.Errorf("the old file holds %q (%v)", content, err)
	}
}

func TestOpenSaysWhatToDo(t *testing.T) {
	t.Parallel()
	_, err := OpenAccessLog(filepath.Join(t.TempDir(), "no", "such", "folder"), AccessLogOptions{})
	if err == nil || !strings.Contains(err.Error(), "access_log.path") {
		t.Errorf("error: %v", err)
	}
}

// TestCopyingAllocatesNothing covers what Log does beside taking an entry from a
// sync.Pool, which the race detector makes forget some.
func TestCopyingAllocatesNothing(t *testing.T) {
	l := NewAccessLog(io.Discard, AccessLogOptions{Sample: 0.5})
	defer closeLog(t, l)
	var e entry
	r := exampleRecord()
	if n := testing.AllocsPerRun(1000, func() {
		l.Want(codes.OK)
		e.set(r, &l.texts)
	}); n != 0 {
		t.Errorf("%v allocations per RPC", n)
	}
}

// BenchmarkAccessLog shows what an RPC pays (Log), and what a line costs the
// writer.
func BenchmarkAccessLog(b *testing.B) {
	b.Run("log", func(b *testing.B) {
		var w countingWriter
		l := NewAccessLog(&w, AccessLogOptions{})
		defer closeLog(b, l)
		r := exampleRecord()
		b.ReportAllocs()
		for i := range b.N {
			if i%defaultQueue == 0 { // let the writer catch up
				b.StopTimer()
				for l.out.written() < i {
					time.Sleep(gather)
				}
				b.StartTimer()
			}
			l.Log(r)
		}
	})
	b.Run("line", func(b *testing.B) {
		handler := slog.NewJSONHandler(io.Discard, nil)
		r := exampleRecord()
		b.ReportAllocs()
		for b.Loop() {
			if err := r.write(handler); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkWant(b *testing.B) {
	l := NewAccessLog(io.Discard, AccessLogOptions{Sample: 0.01})
	b.ReportAllocs()
	for b.Loop() {
		l.Want(codes.OK)
	}
	closeLog(b, l)
}
