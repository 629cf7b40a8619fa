package main

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"
)

func TestLogger(t *testing.T) {
	t.Parallel()
	for format, begins := range map[string]string{"text": "time=", "json": "{", "auto": "{"} {
		var out bytes.Buffer
		level := new(slog.LevelVar)
		logger := newLogger(&out, format, level)
		logger.Debug("hidden")
		level.Set(slog.LevelDebug)
		logger.Debug("shown")
		if text := out.String(); strings.Contains(text, "hidden") || !strings.Contains(text, "shown") || !strings.HasPrefix(text, begins) {
			t.Errorf("%s: %q", format, text)
		}
	}
}

func TestAFileIsNoTerminal(t *testing.T) {
	t.Parallel()
	f, err := os.Create(t.TempDir() + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if isTerminal(f) || isTerminal(&bytes.Buffer{}) {
		t.Error("it is")
	}
}
