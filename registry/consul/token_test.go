package consul

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestTokenFile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "token")
		log, rotations := &logBook{}, 0
		held := &tokens{file: path, troubles: newTroubles(log.logger()), rotated: func() { rotations++ }}
		step := func(what string, change func() error, wanted, says string) {
			t.Helper()
			if err := change(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(troubleQuiet)
			want(t, what, held.current(), wanted)
			if says != "" && len(log.with(says)) != 1 {
				t.Fatalf("%s: want one line with %q in\n%s", what, says, strings.Join(log.with(""), "\n"))
			}
		}
		write := func(content string) func() error {
			return func() error { return os.WriteFile(path, []byte(content), 0o600) }
		}
		none := func() error { return nil }

		step("missing", none, "", "no such file or directory; going on without a token")
		step("still missing", none, "", "no such file or directory; going on without a token")
		step("there", write("  first\n"), "first", "")
		step("empty", write(""), "first", "is empty; going on with the token read last")
		step("two", write("a\nb\n"), "first", "more than one token")
		step("huge", write(strings.Repeat("a", maxToken+1)), "first", "longer than")
		step("rotated", write("second"), "second", "")
		step("gone", func() error { return os.Remove(path) }, "second", "")
		step("a rename", func() error {
			if err := os.WriteFile(path+".new", []byte("third"), 0o600); err != nil {
				return err
			}

			return os.Rename(path+".new", path)
		}, "third", "")

		want(t, "rotations", rotations, 3)

		// Looked at every two seconds, and at once after a refusal.
		if err := write("fourth")(); err != nil {
			t.Fatal(err)
		}
		want(t, "at once", held.current(), "third")
		fresh, changed := held.reload("third")
		if fresh != "fourth" || !changed {
			t.Fatalf("%q, %t", fresh, changed)
		}
		if _, changed := held.reload("fourth"); changed {
			t.Fatal("changed without a change")
		}
		if fresh, changed := held.reload("third"); fresh != "fourth" || !changed {
			t.Fatal("who was refused with an older token tries the newer")
		}
	})
}
