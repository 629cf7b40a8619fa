package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test's binary be what the program starts of itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains(roles, os.Args[1]) {
		if err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func TestMeasuresTheGRPCGoPassThrough(t *testing.T) {
	if _, err := exec.LookPath("h2load"); err != nil {
		t.Skip("h2load is not installed: " + h2loadHint)
	}
	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("before\n"+beginMarker+"\nold\n"+endMarker+"\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-quick", "-parts", "unary,streaming,bulk,big", "-peers", "grpcgo", "-settings", "two", "-shapes", "2x3", "-n", "200", "-time", "50ms", "-out", page}
	if err := run(t.Context(), args, io.Discard, t.Output()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	if !strings.HasPrefix(text, "before\n") || !strings.HasSuffix(text, "\nafter\n") || strings.Contains(text, "old") {
		t.Error("the page around the markers has changed, or what was between them has not")
	}
	for _, want := range []string{"2x3", "grpc-go pass-through", "Streaming", "Unary RPCs (2000 per second) beside", "peak, unary", "Resident memory for each", "behind crypto/tls takes", "RPC/s asked for"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(text, t.TempDir()) {
		t.Error("the page names a path of this machine")
	}
}

func TestFailedRequestsAreAnError(t *testing.T) {
	if _, err := exec.LookPath("h2load"); err != nil {
		t.Skip("h2load is not installed: " + h2loadHint)
	}
	dir := t.TempDir()
	body := filepath.Join(dir, "body")
	// The backend answers what it does not know with an error of gRPC's, which
	// is a success to HTTP.
	if err := os.WriteFile(body, []byte("\x00\x00\x00\x00\x01x"), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	backend, addr, err := startBackend(t.Context(), self, dir, unpinned, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(backend.stop)
	h2, err := findH2load(dir)
	if err != nil {
		t.Fatal(err)
	}
	l := load{addr: addr, shape: shape{1, 1}, body: body, path: rpcPath, requests: 3, answer: unaryAnswer, core: anyCore}
	if _, err := h2.run(t.Context(), l); err == nil || !strings.Contains(err.Error(), "gRPC error") {
		t.Errorf("error %v, want one that says that answers carry a gRPC error", err)
	}
}
