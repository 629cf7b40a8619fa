package registry

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

// ParseAddress splits an address as configuration writes it into what
// net.Dial and net.Listen take. "host:port" is TCP; "unix:///run/app.sock" is
// a Unix socket, whose path is absolute. Port 0 is allowed (a listener chooses
// one).
func ParseAddress(s string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(s, "unix://"); ok {
		if !filepath.IsAbs(path) {
			return "", "", fmt.Errorf("address %q: the path of a Unix socket is absolute: write unix:///run/app.sock", s)
		}
		return "unix", path, nil
	}
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", "", fmt.Errorf("address %q: want host:port or unix:///path: %w", s, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", "", fmt.Errorf("address %q: port %q is not a number from 0 to 65535 (parsed %d)", s, port, n)
	}
	return "tcp", s, nil
}
