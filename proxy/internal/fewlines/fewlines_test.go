package fewlines

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestFewLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var buf bytes.Buffer
		l := &Log{
			Logger: slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}})),
			Level: slog.LevelWarn, One: "one", More: "more",
		}
		want := ""
		check := func() {
			t.Helper()
			l.mu.Lock() // under which buf is written to
			defer l.mu.Unlock()
			if got := buf.String(); got != want {
				t.Fatalf("logged:\n%swant:\n%s", got, want)
			}
		}
		for i := range 8 {
			l.Note("n", i)
			if i < Each {
				want += fmt.Sprintf("level=WARN msg=one n=%d\n", i)
			}
		}
		check()
		time.Sleep(Period)
		synctest.Wait()
		want += "level=WARN msg=more left_out=3 last_n=7\n"
		check()
		for i := range 6 {
			l.Note("n", i)
			if i < Each {
				want += fmt.Sprintf("level=WARN msg=one n=%d\n", i)
			}
		}
		check()
		l.Close()
		want += "level=WARN msg=more left_out=1 last_n=5\n"
		check()
		l.Close()
		time.Sleep(time.Hour)
		check()
		if n := strings.Count(buf.String(), "\n"); n != 12 {
			t.Errorf("%d lines", n)
		}
	})
}
