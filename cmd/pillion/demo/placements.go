package demo

// placements remember which version each user met, and how that changed. Epochs
// divide the time: odd ones are those in which a change of policies is taken over,
// perhaps by one sidecar before the other, so what is met then counts for nothing.
type placements struct {
	epoch   int
	of      map[int]placement
	moved   map[move]int // in this epoch, against the ones before it
	strayed int          // users that met two versions in one epoch, ever
}

type placement struct {
	version string
	epoch   int
}

type move struct{ from, to string }

// note takes note of what a user met in an RPC that began in an epoch.
func (p *placements) note(user, epoch int, version string) {
	if epoch != p.epoch || epoch%2 == 1 {
		return
	}
	if p.of == nil {
		p.of, p.moved = map[int]placement{}, map[move]int{}
	}
	before, met := p.of[user]
	p.of[user] = placement{version, epoch}
	switch {
	case !met || before.version == version:
	case before.epoch == epoch:
		p.strayed++
	default:
		p.moved[move{before.version, version}]++
	}
}

// at counts the users whose last answer came from a version.
func (p *placements) at(version string) (n int) {
	for _, place := range p.of {
		if place.version == version {
			n++
		}
	}
	return n
}

func (l *load) epoch() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.places.epoch
}

// unsettle says that policies are about to change.
func (l *load) unsettle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.places.epoch%2 == 0 {
		l.places.epoch++
	}
}

// settle says that they have.
func (l *load) settle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.places.epoch%2 == 1 {
		l.places.epoch++
		clear(l.places.moved)
	}
}

// usersAt is how many users met a version last.
func (l *load) usersAt(version string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.places.at(version)
}

// moves is how many users moved since the policies last changed.
func (l *load) moves(from, to string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.places.moved[move{from, to}]
}

// strayed is how many users met another version although nothing had changed.
func (l *load) strayed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.places.strayed
}
