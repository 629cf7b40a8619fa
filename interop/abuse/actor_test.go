package abuse

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/interop/abuse/attack"
	"github.com/pillion-proxy/pillion/interop/harness"
)

// actorDir is the folder of the program, once it is built.
var actorDir string

// The actor is built once for the test run, without the race detector.
var buildActor = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pillion-abuse-")
	if err != nil {
		return "", err
	}
	actorDir = dir
	path := filepath.Join(dir, "actor")
	cmd := exec.Command("go", "build", "-o", path, "./actor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the actor: %w\n%s", err, out)
	}

	return path, nil
})

// actor is the path of the program that plays apps and attackers.
func actor(t testing.TB) string {
	t.Helper()

	path, err := buildActor()
	if err != nil {
		t.Fatal(err)
	}

	return path
}

// startVictim starts the app that attacks call.
func startVictim(t testing.TB) (address string) {
	t.Helper()

	return harness.Start(t, harness.Command{Path: actor(t), Args: []string{"app"}}).Await(t, `^app at (\S+)$`)[1]
}

// endure has a client attack again and again for a while, and checks each end.
func endure(t *testing.T, client attack.Client, address string, while time.Duration) attack.Report {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	// The attacker may have what is left of the processors: attackers elsewhere
	// would take none.
	cmd := exec.CommandContext(ctx, "nice", "-n", "19", actor(t), "attack", client.Name, address, while.String())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the attacker: %v\n%s", err, &stderr)
	}
	var report struct {
		attack.Report

		Wrong string
	}
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("the attacker's report: %v\n%s", err, out)
	}
	if report.Wrong != "" {
		t.Fatalf("%s; all: %v", report.Wrong, report.Report)
	}

	return report.Report
}
