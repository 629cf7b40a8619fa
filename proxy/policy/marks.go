package policy

// maxMarked is how many fields a request may have that are marked.
const maxMarked = 32

// marks tell where in a request a key is that is looked for, or that it is not there,
// mostly without a look at a name: policies ask for several keys, most of which are not
// there. They are written anew for each request, but not cleared.
type marks struct {
	// seen has a bit for each drawer that a field is in, and twice for each in which there
	// are several.
	seen, twice uint64
	n           int            // fields that are marked, which is all or none: then names are compared
	first       [drawers]uint8 // the first field of each drawer that is seen
}

// drawers is how many fields are divided among, by their names.
const drawers = 64

// key is a metadata key and the drawer that it is in.
type key struct {
	text   string
	drawer uint8
}

func newKey(text string) key { return key{text, drawerOf(text)} }

// drawerOf goes by what tells names apart most often: the length, and the first, the
// middle and the last byte.
func drawerOf(name string) uint8 {
	n := len(name)
	if n == 0 {
		return 0
	}
	bytes := uint32(name[0]) | uint32(name[n/2])<<8 | uint32(name[n-1])<<16 | uint32(n)<<24
	return uint8(bytes * 0x9E3779B1 >> 26)
}

// Mark makes looks at the fields cheaper, which must not change from then on for as long
// as policies look at them.
func (r *RPC) Mark() {
	m := &r.marks
	m.n = 0
	if len(r.Fields) > maxMarked {
		return
	}
	var seen, twice uint64
	for i := range r.Fields {
		drawer := drawerOf(r.Fields[i].Name) % drawers
		bit := uint64(1) << drawer
		if seen&bit != 0 {
			twice |= bit
			continue
		}
		seen |= bit
		m.first[drawer] = uint8(i)
	}
	m.n, m.seen, m.twice = len(r.Fields), seen, twice
}

// find returns the place of the first field of a key, -1 where there is none.
func (r *RPC) find(k *key) int {
	m := &r.marks
	if m.n == 0 {
		return r.search(k, 0)
	}
	if m.seen>>(k.drawer%drawers)&1 == 0 {
		return -1
	}
	i := int(m.first[k.drawer%drawers])
	if r.Fields[i].Name == k.text {
		return i
	}
	return r.next(k, i)
}

// next returns the place of the first field of a key after a place in which find found
// one, -1 where there is none.
func (r *RPC) next(k *key, after int) int {
	if r.alone(k) {
		return -1
	}
	return r.search(k, after+1)
}

// alone says that there is no other field in a key's drawer but one that was found.
func (r *RPC) alone(k *key) bool { return r.marks.n > 0 && r.marks.twice>>(k.drawer%drawers)&1 == 0 }

// search goes through the fields.
func (r *RPC) search(k *key, from int) int {
	for i := from; i < len(r.Fields); i++ {
		if r.Fields[i].Name == k.text {
			return i
		}
	}
	return -1
}

// one returns the value of a metadata key, where it stands just once, and how often it
// stands there; else the first of its values.
func (r *RPC) one(k *key) (value string, count int) {
	i := r.find(k)
	if i < 0 {
		return "", 0
	}
	value, count = r.Fields[i].Value, 1
	if r.alone(k) {
		return value, count
	}
	for i = r.next(k, i); i >= 0; i = r.next(k, i) {
		count++
	}
	return value, count
}

// Forget lets go of what the RPC refers to, so that another one can take its place.
func (r *RPC) Forget() {
	r.Path, r.Authority, r.Peer, r.Fields, r.marks.n = "", "", "", nil, 0
}
