package demo

import (
	"maps"
	"strings"
	"time"
)

// sightings are which greeters RPCs met, whose they were, and when: what is asked of them
// comes to be known later only, such as when a canary was rolled back.
type sightings struct {
	last    map[string]time.Time // when the last RPC began that met a version
	of      map[int]sighting     // each user's last one
	moves   []sighting           // where a user met another version than before
	hurt    map[int]struct{}     // users who saw an RPC fail
	rpcs    int
	leaked  int       // RPCs in which a client saw what was reported to sidecars
	failing time.Time // when the last RPC began that failed
}

// sighting is a version that an RPC met.
type sighting struct {
	user           int // -1: nobody's
	version        string
	before         string // which version the user had met before, of a move
	began          time.Time
	failed, leaked bool
}

func newSightings() sightings {
	return sightings{last: map[string]time.Time{}, of: map[int]sighting{}, hurt: map[int]struct{}{}}
}

// whose is the version that an RPC met, by what came of it; "": that is not known.
func whose(message string, err error) string {
	if err == nil {
		return message[strings.LastIndexByte(message, ' ')+1:]
	}
	_, version, _ := strings.Cut(err.Error(), unwell)
	return version
}

// note takes note of an RPC's end. RPCs of one user may end in another order than they
// began in; the earlier one says nothing then.
func (s *sightings) note(one sighting) {
	s.rpcs++
	if one.failed && one.user >= 0 {
		s.hurt[one.user] = struct{}{}
	}
	if one.failed && one.began.After(s.failing) {
		s.failing = one.began
	}
	if one.leaked {
		s.leaked++
	}
	if one.version == "" {
		return
	}
	if one.began.After(s.last[one.version]) {
		s.last[one.version] = one.began
	}
	if one.user < 0 {
		return
	}
	before, met := s.of[one.user]
	if met && one.began.Before(before.began) {
		return
	}
	s.of[one.user] = one
	if met && before.version != one.version {
		one.before = before.version
		s.moves = append(s.moves, one)
	}
}

// moved counts the users' moves from a version to another, but for those in a moment after
// one of the changes.
func (s *sightings) moved(from, to string, changes []time.Time, moment time.Duration) (n, within int) {
	for _, m := range s.moves {
		switch {
		case m.before != from || m.version != to:
		case duringAny(m.began, changes, moment):
			within++
		default:
			n++
		}
	}
	return n, within
}

func duringAny(at time.Time, changes []time.Time, moment time.Duration) bool {
	for _, c := range changes {
		if since := at.Sub(c); since > -moment && since < moment {
			return true
		}
	}
	return false
}

func (l *load) see(one sighting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen.note(one)
}

// sighted returns what was seen since the last call of forget.
func (l *load) sighted() sightings {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.seen
	s.last, s.of, s.hurt = maps.Clone(s.last), nil, maps.Clone(s.hurt)
	return s
}

// forget begins sightings anew.
func (l *load) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = newSightings()
}
