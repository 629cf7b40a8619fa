package server

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// hosts guards against DNS rebinding: a web page whose own name is made to point
// to this machine could otherwise read everything here through its visitor's
// browser. A browser sends the page's name as the host, so a host that is a
// name must be one that we know; no page can be named by a bare address.
type hosts []string

func newHosts(names []string) hosts {
	var known hosts
	for _, name := range names {
		known = append(known, strings.ToLower(strings.TrimSuffix(name, ".")))
	}
	return known
}

// allows reports whether a Host header or :authority may be answered. It may be
// empty, as browsers never have it.
func (h hosts) allows(host string) bool {
	if name, port, err := net.SplitHostPort(host); err == nil {
		if strings.Trim(port, "0123456789") != "" {
			return false
		}
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return ip.Zone() == "" // clients leave it out; it could be any text
	}
	return host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") || slices.Contains(h, host)
}

// guard refuses requests for other hosts. What comes through a Unix socket does
// not come from a browser, and its host is whatever the client made of a path.
func (h hosts) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if (local == nil || local.Network() != "unix") && !h.allows(r.Host) {
			http.Error(w, fmt.Sprintf("admin: host %q is not known here: use localhost, an IP address or the name in admin.listen", r.Host), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
