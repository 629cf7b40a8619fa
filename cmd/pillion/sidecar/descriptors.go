package sidecar

import (
	"syscall"

	"github.com/pillion-proxy/pillion/proxy/downstream"
)

// connectionBound is how many connections of callers each listener takes: what the
// configuration allows, or fewer where so many would not leave file descriptors for
// everything else. Go raises the soft limit to the hard one by itself.
func (s *Sidecar) connectionBound() int {
	allowed := int(s.cfg.GetHttp2().GetMaxConnections())
	listeners := 0
	for _, side := range []string{sideOutbound, sideInbound} {
		if s.listeners[side] != nil {
			listeners++
		}
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || listeners == 0 {
		return allowed
	}
	fits := connectionsWithin(limit.Cur, listeners)
	if fits >= allowed {
		return allowed
	}
	s.logger.Warn("the limit of open files allows fewer connections of callers than http2.max_connections: raise it (RLIMIT_NOFILE, LimitNOFILE= of systemd), or lower http2.max_connections",
		"open_files", limit.Cur, "max_connections", allowed, "in_force_per_listener", fits)
	return fits
}

// connectionsWithin is how many connections each of some listeners may take where
// the process may have that many files open. A quarter of them, and 32 at least, is
// for connections to instances, to the registry and the admin port, and for files.
func connectionsWithin(files uint64, listeners int) int {
	const most = 1 << 30
	files = min(files, most)
	reserve := max(files/4, 32)
	if files < reserve {
		return 1
	}
	return downstream.ConnsFor(int(files-reserve) / listeners)
}
