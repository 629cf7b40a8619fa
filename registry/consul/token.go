package consul

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// tokenLook is how often the token's file is looked at, at most: a rotated
	// token is used that soon.
	tokenLook = 2 * time.Second
	// maxToken bounds the file, in bytes. Tokens are UUIDs, or JWTs at a login.
	maxToken = 64 << 10
)

// tokens knows the ACL token to send now.
type tokens struct {
	file     string
	troubles *troubles
	// rotated is called after the token changed, under mu.
	rotated func()

	mu     sync.Mutex
	token  string
	looked time.Time
	stamp  stamp
}

// stamp tells one content of a file from another without reading it.
type stamp struct {
	modified time.Time
	size     int64
}

// current returns the token to send, empty for none. It looks at the file at
// most every tokenLook.
func (t *tokens) current() string {
	t.mu.Lock()
	defer t.mu.Unlock()

	if t.file != "" && (t.looked.IsZero() || time.Since(t.looked) >= tokenLook) {
		t.look(false)
	}

	return t.token
}

// ticker says when to look at the file where no request does so; never, where
// there is none.
func (t *tokens) ticker() *time.Ticker {
	ticker := time.NewTicker(tokenLook)
	if t.file == "" {
		ticker.Stop()
	}

	return ticker
}

// reload reads the file, because the agent refused used, and returns the token
// to try then. It is false where that is the same.
func (t *tokens) reload(used string) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()

	if t.file != "" && t.token == used {
		t.look(true)
	}

	return t.token, t.token != used
}

// look reads the file where it has changed, or in any case if forced. The last
// good token stays where the file is missing or empty: who rotates it may be
// half-way. t.mu is held.
func (t *tokens) look(forced bool) {
	t.looked = time.Now()

	err := t.read(forced)
	if err != nil {
		t.troubles.report(scopeToken, fmt.Errorf("consul: token file %s: %w; going on %s", t.file, err, t.withWhat()))

		return
	}
	t.troubles.clear(scopeToken)
}

func (t *tokens) withWhat() string {
	if t.token == "" {
		return "without a token"
	}

	return "with the token read last"
}

func (t *tokens) read(forced bool) error {
	file, err := os.Open(t.file)
	if err != nil {
		if pathErr := new(os.PathError); errors.As(err, &pathErr) {
			err = pathErr.Err
		}

		return err
	}
	defer func() { _ = file.Close() }()

	info, err := file.Stat()
	if err != nil {
		return err
	}
	now := stamp{modified: info.ModTime(), size: info.Size()}
	if now == t.stamp && !forced {
		return nil
	}

	content, err := io.ReadAll(io.LimitReader(file, maxToken+1))
	if err != nil {
		return err
	}
	if len(content) > maxToken {
		return fmt.Errorf("is longer than %d bytes", maxToken)
	}

	token := strings.TrimSpace(string(content))
	switch {
	case token == "":
		return errors.New("is empty")
	case strings.ContainsFunc(token, func(r rune) bool { return r < ' ' || r > '~' }):
		return errors.New("holds more than one token, or something else")
	}
	changed := token != t.token
	t.token, t.stamp = token, now
	if changed {
		t.rotated()
	}

	return nil
}
