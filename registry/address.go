package registry

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

// maxSocketPath is the longest path of a Unix socket in bytes: Linux keeps 108
// (unix(7)), the last for the terminating zero.
const maxSocketPath = 107

// ParseAddress splits an address as configuration writes it into what
// net.Dial and net.Listen take. "host:port" is TCP; "unix:///run/app.sock" is
// a Unix socket, whose path is absolute. Port 0 is allowed (a listener chooses
// one), and so is an empty host (a listener takes all).
func ParseAddress(s string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		return parseSocket(s, path)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", "", fmt.Errorf("address %q: want host:port (IPv6 in brackets, [::1]:80) or unix:///path", s)
	}
	if strings.ContainsFunc(host, notInHost) {
		return "", "", fmt.Errorf("address %q: %q is not a host name or IP address", s, host)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", "", fmt.Errorf("address %q: port %q is not a number from 0 to 65535", s, port)
	}
	return "tcp", s, nil
}

func parseSocket(s, rest string) (network, address string, err error) {
	path, ok := strings.CutPrefix(rest, "//")
	switch {
	case !ok || !filepath.IsAbs(path):
		return "", "", fmt.Errorf("address %q: the path of a Unix socket is absolute: write unix:///run/app.sock", s)
	case len(path) > maxSocketPath:
		return "", "", fmt.Errorf("address %q: the path of a Unix socket has at most %d bytes, this one %d", s, maxSocketPath, len(path))
	case strings.ContainsRune(path, 0):
		return "", "", fmt.Errorf("address %q: the path holds a zero byte", s)
	}
	return "unix", path, nil
}

// notInHost tells what no host name, IP address or IPv6 zone holds, such as
// what remains of a URL.
func notInHost(r rune) bool {
	return r <= ' ' || r == 0x7f || strings.ContainsRune(`/\@?#"'`, r)
}
