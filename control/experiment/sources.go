package experiment

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// What an elected sidecar has counted together is nowhere else. All sidecars tell who is
// elected next what they have counted; what those counted that are gone by then is lost,
// unless the next one has a disk where it is. So that nobody takes less for all, everybody
// is told whose counts there are, and tells the next one.

const (
	// maxMarks bounds the sources that are spoken of: those with the lowest marks, which
	// stand for all others.
	maxMarks = 64
	// maxClaims bounds the sources that a newly elected sidecar is told of, by all.
	maxClaims = 4096
	// sourcesEvery is how often others are told of sources that were not there, and
	// unitsEvery how often of more units.
	sourcesEvery, unitsEvery = 10 * time.Second, time.Minute
	// returnFor is how long sidecars have to report to who is newly elected, before what
	// they counted is said to be lost.
	returnFor = 30 * time.Second
)

// markOf is what others know a source by.
func markOf(epoch uint64) uint64 {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, epoch))
	return binary.BigEndian.Uint64(sum[:])
}

// claim is a source that an earlier elected sidecar had, as others say.
type claim struct {
	by        uint64 // the process that said so first
	confirmed bool   // another did too
	units     uint64 // the least that was said
}

// claims are what others say of sources that were there before.
type claims struct {
	of   map[uint64]claim // by mark
	by   uint64           // the process that has said something first
	many bool             // another has too
	all  uint32           // the least that was said of how many there were
}

// hear takes over which sources a process has heard of. One that lies alone is not believed,
// where there are others.
func (c *claims) hear(process uint64, heard *meshv1.Sources) {
	list := heard.GetList()
	if len(list) == 0 || len(list) > maxMarks {
		return
	}
	if c.of == nil {
		c.of, c.by, c.all = map[uint64]claim{}, process, heard.GetAll()
	}
	c.many = c.many || process != c.by
	c.all = min(c.all, heard.GetAll())
	for _, s := range list {
		now, is := c.of[s.GetMark()]
		switch {
		case is:
			now.confirmed = now.confirmed || process != now.by
			now.units = min(now.units, s.GetUnits())
		case len(c.of) < maxClaims:
			now = claim{by: process, units: s.GetUnits()}
		default:
			continue
		}
		c.of[s.GetMark()] = now
	}
}

// missing returns those of the sources that were there before and are not there now.
func (p *pool) missing() (list []*meshv1.Source) {
	here := make(map[uint64]bool, len(p.sources))
	for _, s := range p.sources {
		here[s.mark] = true
	}
	for mark, c := range p.claims.of {
		if !here[mark] && (c.confirmed || !p.claims.many) {
			list = append(list, &meshv1.Source{Mark: mark, Units: c.units})
		}
	}
	return list
}

// lost is how many sidecars had counted, and about how many units, whose counts are not
// there.
func (p *pool) lost() (sidecars uint32, units uint64) {
	list := p.missing()
	for _, s := range list {
		units += min(s.GetUnits(), math.MaxUint32)
	}
	sidecars = uint32(len(list))
	// Where they were too many to speak of all, those who were spoken of stand for all.
	if all := min(p.claims.all, maxClaims); all > maxMarks {
		sidecars, units = sidecars*all/maxMarks, units*uint64(all)/maxMarks
	}
	return sidecars, units
}

// said is whose counts there are, for others to keep. Those that are missing are among them:
// they may come back to who is elected next.
func (p *pool) said() *meshv1.Sources {
	list := p.missing()
	for _, s := range p.sources {
		if !s.isRefused && s.counts() {
			list = append(list, &meshv1.Source{Mark: s.mark, Units: uint64(float64(len(s.rows)+len(s.crossed)) / sampled(p.threshold))})
		}
	}
	slices.SortFunc(list, func(a, b *meshv1.Source) int { return cmp.Compare(a.GetMark(), b.GetMark()) })
	return &meshv1.Sources{List: list[:min(len(list), maxMarks)], All: uint32(len(list))}
}

// tell returns what others are to be told of sources now; nil: nothing.
func (r *led) tell(now time.Time) *meshv1.Sources {
	if r.toldAt.IsZero() {
		r.toldAt = now // those who report at all do so within sourcesEvery
	}
	if now.Sub(r.toldAt) < sourcesEvery {
		return nil
	}
	said := r.pool.said()
	same := slices.EqualFunc(said.GetList(), r.told.GetList(), func(a, b *meshv1.Source) bool { return a.GetMark() == b.GetMark() }) &&
		said.GetAll() == r.told.GetAll()
	if same && (now.Sub(r.toldAt) < unitsEvery || proto.Equal(said, r.told)) {
		return nil
	}
	r.told, r.toldAt = said, now
	return said
}
