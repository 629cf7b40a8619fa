package dirkv

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/control/kv"
)

// What people, or others, may have put into the folder: one line says what is wrong, what
// is not concerned goes on, and a watch keeps what it knew.
func TestOddContents(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		put func(dir string) error
		// says is in the errors about p/, empty for none; everywhere: about all else too.
		says       string
		everywhere bool
		writes     bool // fail too
	}{
		"a README":                   {put: file("p/README.md", "hello")},
		"an editor's files":          {put: file("p/.b.json.swp", "x")},
		"a copy":                     {put: file("p/b.json~", "x")},
		"an odd name":                {put: file("p/b%zz.json", "x"), says: "p/b%zz.json: no key is called so"},
		"a bad name":                 {put: file("p/b\xff.json", "x"), says: "no key is called so"},
		"too large":                  {put: file("p/b.json", strings.Repeat("x", kv.MaxValue+1)), says: "p/b.json: it has 524289 bytes"},
		"a pipe":                     {put: func(dir string) error { return syscall.Mkfifo(dir+"/p/b.json", 0o600) }, says: "p/b.json: it is not an ordinary file"},
		"a link":                     {put: func(dir string) error { return os.Symlink("/etc/passwd", dir+"/p/b.json") }, says: "p/b.json: it is a link"},
		"a loop":                     {put: func(dir string) error { return os.Symlink("loop", dir+"/p/loop") }},
		"a folder of a file's name":  {put: func(dir string) error { return os.Mkdir(dir+"/p/b.json", 0o700) }, says: "p/b.json: no key is called so"},
		"a file in a folder's place": {put: file("p/b", "x")},
		"a journal of somebody's":    {put: file(".kv/journal.json", "hello\nworld"), says: ".kv/journal.json is not the store's", everywhere: true, writes: true},
		"a journal that leads out":   {put: file(".kv/journal.json", `{"files":{"../../x":"1"}}`), says: ".kv/journal.json is not the store's", everywhere: true, writes: true},
		"a journal that leads in":    {put: file(".kv/journal.json", `{"files":{"x":"../meta.json"}}`), says: ".kv/journal.json is not the store's", everywhere: true, writes: true},
		"meta of somebody's":         {put: file(".kv/meta.json", "[]"), writes: true},
		"meta that leads out":        {put: file(".kv/meta.json", `{"owned":{"../../x":"s"}}`), writes: true},
		"meta that leads elsewhere":  {put: file(".kv/meta.json", `{"owned":{"p/a":"../meta.json"}}`), writes: true},
		"no meta":                    {put: func(dir string) error { return os.Remove(dir + "/.kv/meta.json") }},
		"nothing of the store's":     {put: func(dir string) error { return os.RemoveAll(dir + "/.kv") }},
		"a session of somebody's":    {put: file(".kv/sessions/x", "hello")},
		"a session's folder":         {put: func(dir string) error { return os.MkdirAll(dir+"/.kv/sessions/y/z", 0o700) }},
		"a lock that is a folder": {put: func(dir string) error {
			return errors.Join(os.Remove(dir+"/.kv/lock"), os.Mkdir(dir+"/.kv/lock", 0o700))
		}},
		"no folder": {put: func(dir string) error { return os.Rename(dir, dir+".gone") }, says: "no such file or directory", everywhere: true, writes: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "kv")
			s := open(t, dir)
			set(t, s, "p/a", "1")
			set(t, s, "q/a", "1")
			ctx, cancel := contextOf(t)
			states, ended := make(chan kv.State, 1000), make(chan struct{})
			go func() {
				defer close(ended)
				s.Watch(ctx, "p/", func(state kv.State) { states <- state })
			}()
			<-states
			must(t, c.put(dir))

			check := func(what string, err error, fails bool) {
				t.Helper()
				switch {
				case !fails && err != nil:
					t.Errorf("%s: %v", what, err)
				case fails && (err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n")):
					t.Errorf("%s: %v, want %q", what, err, c.says)
				case fails && !strings.HasPrefix(err.Error(), "folder "+dir):
					t.Errorf("%s does not say which folder: %v", what, err)
				}
			}
			_, err := s.List(t.Context(), "p/")
			check("List", err, c.says != "")
			if err != nil {
				t.Log(err)
			}
			_, err = s.Get(t.Context(), "p/a")
			check("Get", err, c.everywhere)
			_, err = s.List(t.Context(), "q/")
			check("List of others", err, c.everywhere)
			err = s.Commit(t.Context(), kv.Op{Key: "q/b", Value: []byte("1"), Any: true})
			check("Commit", err, c.writes)
			if c.writes && err != nil {
				t.Log(err)
			}
			if c.says != "" {
				for state := range states {
					if state.Err != nil {
						if len(state.Entries) != 1 || !state.Known {
							t.Errorf("what was known went: %+v", state)
						}
						break
					}
				}
			}
			cancel()
			<-ended
			if _, err := os.Stat(filepath.Join(filepath.Dir(dir), "x")); err == nil {
				t.Error("written outside")
			}
		})
	}
}

func file(name, content string) func(dir string) error {
	return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600) }
}

func TestOddFilesCanBeReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	set(t, s, "p/a", "1")
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, []byte("mine"), 0o600))
	must(t, os.Symlink(outside, dir+"/p/b.json"))
	must(t, os.WriteFile(dir+"/p/c.json", make([]byte, kv.MaxValue+1), 0o600))
	set(t, s, "p/b", "2")
	set(t, s, "p/c", "2")
	if got := show(t, s); got != "p/a=1 p/b=2 p/c=2 " {
		t.Errorf("%q", got)
	}
	if content, err := os.ReadFile(outside); err != nil || string(content) != "mine" {
		t.Errorf("written through the link: %q, %v", content, err)
	}
	must(t, os.Mkdir(dir+"/p/d.json", 0o700))
	err := s.Commit(t.Context(), kv.Op{Key: "p/d", Value: []byte("1"), Any: true}, kv.Op{Key: "p/a", Any: true})
	if err == nil || !strings.Contains(err.Error(), "p/d.json: it is a folder") {
		t.Errorf("a folder: %v", err)
	}
	must(t, os.Remove(dir+"/p/d.json"))
	if got := show(t, s); got != "p/a=1 p/b=2 p/c=2 " {
		t.Errorf("half a commit: %q", got)
	}
}

// Whoever may only read can do that.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	if os.Getuid() == 0 {
		t.Skip("root may write everywhere")
	}
	dir := t.TempDir()
	s := open(t, dir)
	set(t, s, "p/a", "1")
	for _, path := range []string{dir + "/p", s.own(newDir), s.own(sessionsDir), s.own(""), dir} {
		must(t, os.Chmod(path, 0o500))
		defer func() { _ = os.Chmod(path, 0o700) }()
	}
	s = open(t, dir)
	if got := show(t, s); got != "p/a=1 " {
		t.Errorf("%q", got)
	}
	err := s.Commit(t.Context(), kv.Op{Key: "p/b", Value: []byte("1"), Any: true})
	if !errors.Is(err, kv.ErrDenied) {
		t.Errorf("a commit: %v", err)
	}
}

// Somebody who locks it all the time keeps nobody else from it.
func TestFolderIsLockedInTurn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	busy, other := open(t, dir), open(t, dir)
	ctx, cancel := contextOf(t)
	ended, began := make(chan struct{}), make(chan struct{})
	var locked atomic.Int32
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			_ = busy.locked(ctx, exclusive, func() error {
				if locked.Add(1) == 1 {
					close(began)
				}
				time.Sleep(10 * time.Millisecond)
				return nil
			})
		}
	}()
	<-began
	const turns = 5
	for range turns {
		must(t, other.locked(ctx, shared, func() error { return nil }))
	}
	if got := locked.Load(); got > 4*turns {
		t.Errorf("it was locked %d times by one, %d times by the other", got, turns)
	}
	cancel()
	<-ended
}

// A process that is stopped while it holds the folder's lock.
func TestFolderIsLocked(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	held, err := s.lock(t.Context(), exclusive)
	must(t, err)
	defer func() { _ = held.Close() }()
	ctx, cancel := contextOf(t)
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := s.List(ctx, ""); !errors.Is(err, ctx.Err()) || err == nil {
		t.Errorf("got %v", err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	s := &Store{dir: "/d"}
	for key, want := range map[string]string{
		"a": "/d/a.json", "a/b": "/d/a/b.json", "a.json/b.json": "/d/a%2Ejson/b.json.json", ".kv/lock": "/d/%2Ekv/lock.json",
		"a%2Eb": "/d/a%252Eb.json", "...": "/d/%2E...json", ".json/x": "/d/%2Ejson/x.json",
	} {
		if got, err := s.path(key); err != nil || got != want {
			t.Errorf("%s is in %s, %v, want %s", key, got, err, want)
		}
	}
	if _, err := s.path(strings.Repeat("%", kv.MaxElement)); err == nil {
		t.Error("a name that is too long is well")
	}
	rapid.Check(t, func(t *rapid.T) {
		element := rapid.StringOf(rapid.RuneFrom([]rune("%2EeF5.jsona /ä"))).Filter(func(s string) bool {
			return kv.CheckKey(s) == nil && !strings.Contains(s, "/")
		})
		a, b := element.Draw(t, "a"), element.Draw(t, "b")
		for _, folder := range []bool{false, true} {
			names := []string{}
			for _, e := range []string{a, b} {
				name := escape(e) + suffix
				if folder {
					name = folderName(e)
				}
				if got, ok := elementOf(name, folder); !ok || got != e {
					t.Fatalf("%q is called %q, which is %q, %v", e, name, got, ok)
				}
				if strings.HasPrefix(name, ".") || folder == strings.HasSuffix(name, suffix) {
					t.Fatalf("%q is called %q", e, name)
				}
				names = append(names, name)
			}
			if a != b && names[0] == names[1] {
				t.Fatalf("%q and %q are called %q", a, b, names[0])
			}
		}
	})
}

// Whatever the store's own files hold, nothing outside the folder is touched.
func FuzzOwnFiles(f *testing.F) {
	f.Add([]byte(`{"files":{"a":"0","b":""},"meta":{"time":5,"owned":{"a":"s"}}}`), []byte(`{"time":1,"owned":{"q/a":"s"},"delays":{"a":9}}`), []byte(`{"name":"x","ttl_ns":1}`))
	f.Add([]byte(`{"files":{"../a":"0"}}`), []byte(`{"owned":{"../a":"../s"}}`), []byte(`[]`))
	f.Fuzz(func(t *testing.T, journal, meta, session []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "kv")
		s := open(t, dir)
		for name, content := range map[string][]byte{"a.json": journal, ".kv/journal.json": journal, ".kv/meta.json": meta, ".kv/sessions/s": session, ".kv/new/0": meta} {
			must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
		}
		_, readErr := s.List(t.Context(), "")
		writeErr := s.Commit(t.Context(), kv.Op{Key: "q/b", Value: []byte("1"), Any: true})
		for _, err := range []error{readErr, writeErr} {
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a line: %q", err)
			}
		}
		if writeErr == nil {
			if entry, err := s.Get(t.Context(), "q/b"); err != nil || string(entry.Value) != "1" {
				t.Errorf("%+v, %v", entry, err)
			}
		}
		left, err := os.ReadDir(parent)
		must(t, err)
		if names := slices.Collect(func(yield func(string) bool) {
			for _, entry := range left {
				if !yield(entry.Name()) {
					return
				}
			}
		}); !slices.Equal(names, []string{"kv"}) {
			t.Errorf("beside the folder: %q", names)
		}
	})
}
