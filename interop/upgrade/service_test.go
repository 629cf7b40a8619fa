package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pillion-proxy/pillion/interop/harness"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if nextPath != "" {
			_ = os.RemoveAll(filepath.Dir(nextPath))
		}
		os.Exit(code)
	}))
}

// patience bounds every wait.
const patience = 60 * time.Second

// service is a sidecar as a service manager sees it: the file of a program, a
// configuration, and the process that serves now, whichever that is.
type service struct {
	*harness.Sidecar

	folder  string
	program string // a symbolic link, as packages install versions
	config  string
	pid     int
}

// options say what a service is like.
type options struct {
	service, app string // the local app
	outbound     string // where to listen; empty: no such side
	inbound      string
	admin        string // default: any free port
	settings     map[string]any
	env          []string
	files        []*os.File
	// through is put before the command line, such as "sh -c ...".
	through []string
}

// start starts a service and waits until it is ready.
func start(t testing.TB, o options) *service {
	t.Helper()

	s := prepare(t, o)
	s.run(t, o)
	s.AwaitReady(t)

	return s
}

// prepare writes all that run needs.
func prepare(t testing.TB, o options) *service {
	t.Helper()

	if o.admin == "" {
		o.admin = harness.FreeAddress(t)
	}
	folder := t.TempDir()
	s := &service{
		folder: folder, program: filepath.Join(folder, "pillion"), config: filepath.Join(folder, "pillion.yaml"),
		Sidecar: &harness.Sidecar{Outbound: o.outbound, Inbound: o.inbound, Admin: o.admin},
	}
	s.install(t, harness.Pillion(t))
	s.configure(t, bootstrap(t, o))

	return s
}

func bootstrap(t testing.TB, o options) map[string]any {
	t.Helper()

	config := map[string]any{"admin": map[string]any{"listen": o.admin}}
	if o.outbound != "" {
		config["outbound"] = map[string]any{"listen": o.outbound, "default_service": "app"}
	}
	if o.inbound != "" {
		config["inbound"] = map[string]any{"listen": o.inbound}
		config["service"] = map[string]any{"name": o.service, "address": o.app}
	}
	maps.Copy(config, o.settings)

	return config
}

func (s *service) run(t testing.TB, o options) {
	t.Helper()

	command := append(o.through, s.program, "run", "-c", s.config)
	s.Process = harness.Start(t, harness.Command{Path: command[0], Args: command[1:], Env: o.env, Files: o.files})
	s.pid = s.PID()
}

// configure writes the configuration anew.
func (s *service) configure(t testing.TB, config any) {
	t.Helper()

	text, ok := config.(string)
	if !ok {
		encoded, err := json.MarshalIndent(config, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		text = string(encoded)
	}
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// install puts another program into the place of the one that there is.
func (s *service) install(t testing.TB, program string) {
	t.Helper()

	fresh := s.program + ".new"
	if err := os.Symlink(program, fresh); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, s.program); err != nil {
		t.Fatal(err)
	}
}

// script puts a shell script into the program's place.
func (s *service) script(t testing.TB, text string) {
	t.Helper()

	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil { //nolint:gosec // it is to be run
		t.Fatal(err)
	}
	s.install(t, path)
}

// nextVersion is a pillion of other content: bytes after its end do not matter to
// the system, and tell it apart.
func nextVersion(t testing.TB) string {
	t.Helper()

	path, err := makeNext(harness.Pillion(t))
	if err != nil {
		t.Fatal(err)
	}

	return path
}

var (
	nextMu   sync.Mutex
	nextPath string
)

func makeNext(program string) (string, error) {
	nextMu.Lock()
	defer nextMu.Unlock()

	if nextPath != "" {
		return nextPath, nil
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	folder, err := os.MkdirTemp("", "pillion-next-") // many tests use it: TestMain removes it
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, "pillion")
	nextPath = path

	return path, os.WriteFile(path, append(content, "next version"...), 0o700) //nolint:gosec // it is to be run
}

// runs says whether the process that serves is of this program.
func (s *service) runs(t testing.TB, program string) bool {
	t.Helper()

	want, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.Stat(fmt.Sprintf("/proc/%d/exe", s.pid))
	if err != nil {
		t.Fatal(err)
	}

	return os.SameFile(want, have)
}

// signal sends a signal to the process that serves.
func (s *service) signal(t testing.TB, signal syscall.Signal) {
	t.Helper()

	if s.pid == s.PID() { // which wants to know who kills it
		s.Signal(t, signal)

		return
	}
	if err := syscall.Kill(s.pid, signal); err != nil {
		t.Fatalf("signal %v to %d: %v", signal, s.pid, err)
	}
}

// lines says how many lines of the output hold a text.
func (s *service) lines(text string) (count int) {
	for line := range strings.SplitSeq(s.Output(), "\n") {
		if strings.Contains(line, text) {
			count++
		}
	}

	return count
}

// upgrade replaces the process that serves, and returns the pid of the one that
// drains.
func (s *service) upgrade(t testing.TB) (drains int) {
	t.Helper()

	drains = s.pid
	before := s.upgrades()
	s.signal(t, syscall.SIGHUP)
	eventually(t, "the upgrade is over", func() bool {
		if s.lines("the upgrade failed") > 0 {
			t.Fatal("the upgrade failed")
		}

		return len(s.upgrades()) > len(before)
	})
	s.pid = s.upgrades()[len(before)]

	return drains
}

// upgrades are the pids of the processes that took over, in their order.
func (s *service) upgrades() (pids []int) {
	for line := range strings.SplitSeq(s.Output(), "\n") {
		var entry struct {
			Msg string `json:"msg"`
			PID int    `json:"pid"`
		}
		if json.Unmarshal([]byte(line), &entry) == nil && strings.Contains(entry.Msg, "upgraded: ") {
			pids = append(pids, entry.PID)
		}
	}

	return pids
}

// gone says whether a process has ended. One that nobody has waited for yet has.
func gone(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	var state string
	_, after, _ := strings.Cut(string(stat), ") ") // the program's name stands before
	if _, err := fmt.Sscan(after, &state); err != nil {
		return false
	}

	return state == "Z"
}

// watchAdmin asks the admin port again and again, on a connection each, until the
// returned function is called. The test fails where one of them has no answer.
func watchAdmin(t testing.TB, s *service) (stop func()) {
	t.Helper()

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if path, ok := strings.CutPrefix(s.Admin, "unix://"); ok {
				return new(net.Dialer).DialContext(ctx, "unix", path)
			}

			return new(net.Dialer).DialContext(ctx, "tcp", s.Admin)
		}}}
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for asked := 0; ; asked++ {
			for _, page := range []string{"/ready", "/metrics"} {
				if err := getPage(ctx, client, "http://localhost"+page); err != nil && ctx.Err() == nil {
					t.Errorf("admin port, after %d times: GET %s: %v", asked, page, err)

					return
				}
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				if asked < 10 {
					t.Errorf("the admin port was asked only %d times", asked)
				}

				return
			}
		}
	}()

	return func() {
		cancel()
		<-done
	}
}

func getPage(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}

	return nil
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()

	deadline := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-tick.C
	}
}

// kill ends the process that serves as a crash does, and returns when its sockets
// are closed.
func (s *service) kill(t testing.TB) {
	t.Helper()

	s.signal(t, syscall.SIGKILL)
	eventually(t, "the process is gone", func() bool { return gone(s.pid) })
}
