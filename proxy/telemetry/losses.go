package telemetry

import (
	"sync"
	"time"
)

// losses adds up what the access log lost, so that one warning says it all
// where a warning for each RPC would make matters worse.
type losses struct {
	mu     sync.Mutex
	count  uint64
	reason error       // the last one; nil where the queue was full
	timer  *time.Timer // runs while count is not 0
}

// add counts a loss. The first one starts the time after which all are
// reported.
func (s *losses) add(l *AccessLog, n uint64, reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count += n
	if reason != nil {
		s.reason = reason
	}
	if s.timer == nil {
		s.timer = time.AfterFunc(reportEvery, func() { s.report(l) })
	}
}

// report says what was lost since the last report, if anything was.
func (s *losses) report(l *AccessLog) {
	s.mu.Lock()
	count, reason := s.count, s.reason
	if s.timer != nil {
		s.timer.Stop()
	}
	s.count, s.reason, s.timer = 0, nil, nil
	s.mu.Unlock()
	switch {
	case count == 0:
	case reason != nil:
		l.logger.Warn("access log: lines were lost: make room or another place for them", "log", l.out.name, "rpcs", count, "error", reason)
	default:
		l.logger.Warn("access log: RPCs were left out because it is not written quickly enough: lower access_log.sample", "log", l.out.name, "rpcs", count)
	}
}
