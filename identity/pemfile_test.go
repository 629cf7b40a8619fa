package identity

import (
	"errors"
	"io"
	"testing"
)

// A file that is written while it is read is read again, and never taken for what was
// not in it at any time.
func TestReadSettled(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		reads []string // what each brings; "": it fails
		want  string   // "": an error
		left  int      // of reads
	}{
		"at rest":            {[]string{"old", "old", "new"}, "old", 1},
		"torn":               {[]string{"oew", "new", "new"}, "new", 0},
		"torn twice":         {[]string{"onw", "oew", "new", "new"}, "new", 0},
		"never at rest":      {[]string{"1", "2", "3", "4", "5", "6", "7"}, "", 1},
		"unreadable":         {[]string{"", "old"}, "", 1},
		"unreadable by then": {[]string{"old", "", "new", "new"}, "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reads := c.reads
			text, err := readSettled(func() ([]byte, error) {
				if len(reads) == 0 {
					return nil, io.ErrUnexpectedEOF
				}
				next := reads[0]
				if reads = reads[1:]; next == "" {
					return nil, broken
				}
				return []byte(next), nil
			})
			if string(text) != c.want || (err == nil) != (c.want != "") || len(reads) != c.left {
				t.Errorf("%q, %v, with %d reads left; want %q with %d", text, err, len(reads), c.want, c.left)
			}
		})
	}
}
