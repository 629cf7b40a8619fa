package policy

// maxKeys is how many metadata keys, and how many cookies, an index tells apart.
// Rules with others are looked at one by one.
const maxKeys = 1024

// index finds the rules that can match an RPC. Each rule stands in one place (or one
// for each of its methods): under that exact condition of its which fewest rules
// share.
type index struct {
	paths    map[string][]int32
	services map[string][]int32 // by the front of the path: "/helloworld.Greeter/"
	callers  map[string][]int32
	metadata map[string]*valueIndex // by key
	cookies  map[string]*valueIndex // by name
	rest     []int32                // have no exact condition
	// fewKeys and fewNames are what metadata and cookies have, where those are so few
	// that an RPC is asked for each.
	fewKeys, fewNames []*valueIndex
	// lengths has a bit for each length of a metadata key: most fields of an RPC need
	// not be looked up.
	lengths uint64
	// names has one for each length of a cookie's name, and callerLengths for each of a
	// caller's.
	names, callerLengths uint64
}

// valueIndex has the rules that want one of the values of a key.
type valueIndex struct {
	key    key // or a cookie's name
	number int // of the key, below maxKeys
	rules  map[string][]int32
	// lengths has a bit for each length of a value.
	lengths uint64
}

// of returns the rules that want a value.
func (v *valueIndex) of(value string) []int32 {
	if v.lengths&lengthBit(value) == 0 {
		return nil
	}
	return v.rules[value]
}

// fewAsked is how many keys an RPC is asked for, one by one, before it takes less to
// look up which of its own there are.
const fewAsked = 8

// seen is a set of keys that were looked at already.
type seen [maxKeys / 64]uint64

// first says whether a key was not seen before.
func (s *seen) first(number int) bool {
	bit := uint64(1) << (number % 64)
	was := s[number/64]&bit != 0
	s[number/64] |= bit
	return !was
}

// pathLists are the rules that a path finds.
type pathLists struct{ exact, service []int32 }

func (x *index) forPath(path string) pathLists {
	var lists pathLists
	if x.paths != nil {
		lists.exact = x.paths[path]
	}
	if x.services != nil {
		lists.service = x.services[grpcService(path)]
	}
	return lists
}

// first returns the number of the first rule that matches, or how many rules there
// are. The lists are looked at one after the other, and each only as far as the best
// rule found so far. found are those of the RPC's path.
func (x *index) first(rules []Rule, rpc *RPC, found *pathLists, d *dice) int {
	best := scan(rules, found.exact, partMethods, int32(len(rules)), rpc, d)
	best = scan(rules, found.service, partNone, best, rpc, d)
	if x.callerLengths&lengthBit(rpc.Caller) != 0 {
		best = scan(rules, x.callers[rpc.Caller], partCallers, best, rpc, d)
	}
	if x.metadata != nil {
		best = x.byMetadata(rules, best, rpc, d)
	}
	if x.cookies != nil {
		best = x.byCookies(rules, best, rpc, d)
	}
	return int(scan(rules, x.rest, partNone, best, rpc, d))
}

// scan returns the first rule of the list that matches and is before best, else best.
// known is the part of their matches that holds, since it is what the list was found by.
func scan(rules []Rule, list []int32, known part, best int32, rpc *RPC, d *dice) int32 {
	for _, i := range list {
		if i >= best {
			break
		}
		m := rules[i].match
		if failed, _ := m.failingBut(rpc, known, &d.values); failed == partNone && m.drawn(d, uint64(i)) {
			return i
		}
	}
	return best
}

// joinBuffer is how long values that are joined may be for the buffer to be on the
// stack.
const joinBuffer = 512

func (x *index) byMetadata(rules []Rule, best int32, rpc *RPC, d *dice) int32 {
	if x.fewKeys != nil && rpc.marks.n > 0 {
		for _, values := range x.fewKeys {
			if at := rpc.find(&values.key); at >= 0 {
				best = values.byField(rules, best, at, rpc, d)
			}
		}
		return best
	}
	var done seen
	for i := range rpc.Fields {
		name := rpc.Fields[i].Name
		if x.lengths&lengthBit(name) == 0 {
			continue
		}
		values := x.metadata[name]
		if values == nil || !done.first(values.number) {
			continue
		}
		best = values.byField(rules, best, i, rpc, d)
	}
	return best
}

// byField goes by the value of a key whose first field is at a place.
func (v *valueIndex) byField(rules []Rule, best int32, at int, rpc *RPC, d *dice) int32 {
	if rpc.next(&v.key, at) < 0 {
		return scan(rules, v.of(rpc.Fields[at].Value), partNone, best, rpc, d)
	}
	return v.byJoined(rules, best, at, rpc, d)
}

// byJoined is byField where there are several fields.
func (v *valueIndex) byJoined(rules []Rule, best int32, at int, rpc *RPC, d *dice) int32 {
	var buf [joinBuffer]byte
	joined := appendJoined(buf[:0], rpc.Fields[at:], v.key.text)
	return scan(rules, v.rules[string(joined)], partNone, best, rpc, d)
}

// lengthBit is the bit of a key's length; those from 64 on share bits with others.
func lengthBit(key string) uint64 { return 1 << (len(key) % 64) }

func (x *index) byCookies(rules []Rule, best int32, rpc *RPC, d *dice) int32 {
	at := rpc.find(&cookieKey)
	if at < 0 {
		return best
	}
	for _, values := range x.fewNames {
		if value, found := rpc.cookie(values.key.text); found {
			best = scan(rules, values.of(value), partNone, best, rpc, d)
		}
	}
	if x.fewNames != nil {
		return best
	}
	var done seen
	for i := at; i >= 0; i = rpc.next(&cookieKey, i) {
		for rest := rpc.Fields[i].Value; rest != ""; {
			var pair cookiePair
			pair, rest = nextCookie(rest)
			if pair.name == "" || x.names&lengthBit(pair.name) == 0 {
				continue
			}
			if values := x.cookies[pair.name]; values != nil && done.first(values.number) {
				best = scan(rules, values.of(pair.value()), partNone, best, rpc, d)
			}
		}
	}
	return best
}

// place is an exact condition that rules can be found by.
type place struct {
	kind       placeKind
	key, value string
}

type placeKind uint8

const (
	byPath placeKind = iota
	byService
	byCaller
	byMetadata
	byCookie
)

// makeIndex makes the index of rules.
func makeIndex(rules []Rule) index {
	crowd := map[place]int{} // how many rules could stand at a place
	choices := make([][][]place, len(rules))
	for i := range rules {
		choices[i] = rules[i].match.places()
		for _, choice := range choices[i] {
			for _, at := range choice {
				crowd[at]++
			}
		}
	}
	var x index
	for i := range rules {
		x.put(int32(i), x.cheapest(choices[i], crowd))
	}
	x.fewKeys = few(x.metadata, fewAsked)
	x.fewNames = few(x.cookies, 1) // each has the whole header read
	return x
}

// cheapest returns the choice whose fullest place has fewest rules; nil: none is left.
func (x *index) cheapest(choices [][]place, crowd map[place]int) (best []place) {
	least := 0
	for _, choice := range choices {
		if !x.hasRoom(choice[0]) {
			continue
		}
		fullest := 0
		for _, at := range choice {
			fullest = max(fullest, crowd[at])
		}
		if best == nil || fullest < least {
			best, least = choice, fullest
		}
	}
	return best
}

// hasRoom says whether the index can tell the place's key from others.
func (x *index) hasRoom(at place) bool {
	switch at.kind {
	case byMetadata:
		return x.metadata[at.key] != nil || len(x.metadata) < maxKeys
	case byCookie:
		return x.cookies[at.key] != nil || len(x.cookies) < maxKeys
	}
	return true
}

func (x *index) put(rule int32, places []place) {
	if len(places) == 0 {
		x.rest = append(x.rest, rule)
		return
	}
	for _, at := range places {
		switch at.kind {
		case byPath:
			putAt(&x.paths, at.value, rule)
		case byService:
			putAt(&x.services, at.value, rule)
		case byCaller:
			putAt(&x.callers, at.value, rule)
			x.callerLengths |= lengthBit(at.value)
		case byMetadata:
			valuesOf(&x.metadata, at.key).put(at.value, rule)
			x.lengths |= lengthBit(at.key)
		case byCookie:
			valuesOf(&x.cookies, at.key).put(at.value, rule)
			x.names |= lengthBit(at.key)
		}
	}
}

func putAt(m *map[string][]int32, key string, rule int32) {
	if *m == nil {
		*m = make(map[string][]int32)
	}
	(*m)[key] = append((*m)[key], rule)
}

func valuesOf(m *map[string]*valueIndex, key string) *valueIndex {
	if *m == nil {
		*m = make(map[string]*valueIndex)
	}
	if (*m)[key] == nil {
		(*m)[key] = &valueIndex{key: newKey(key), number: len(*m)}
	}
	return (*m)[key]
}

func (v *valueIndex) put(value string, rule int32) {
	putAt(&v.rules, value, rule)
	v.lengths |= lengthBit(value)
}

// few returns the keys in the order of their numbers, nil where there are none, or more
// than that.
func few(m map[string]*valueIndex, most int) []*valueIndex {
	if len(m) == 0 || len(m) > most {
		return nil
	}
	list := make([]*valueIndex, len(m))
	for _, v := range m {
		list[v.number] = v
	}
	return list
}

// places returns the choices of where a rule can stand: in all places of one choice.
func (m *Match) places() (choices [][]place) {
	if m == nil {
		return nil
	}
	if methods := m.methodPlaces(); len(methods) > 0 {
		choices = append(choices, methods)
	}
	if len(m.callers) > 0 {
		var callers []place
		for _, caller := range m.callers {
			callers = append(callers, place{kind: byCaller, value: caller})
		}
		choices = append(choices, callers)
	}
	for i := range m.conditions {
		c := &m.conditions[i]
		if c.test != testExact || c.invert || c.binary {
			continue
		}
		kind := byMetadata
		if c.cookie {
			kind = byCookie
		}
		choices = append(choices, []place{{kind: kind, key: c.key.text, value: c.text}})
	}
	return choices
}

// methodPlaces returns the paths of the match's methods, or else their gRPC services,
// or nothing where one of them has neither.
func (m *Match) methodPlaces() (places []place) {
	if m.methods == nil {
		return nil
	}
	kind, known := byPath, map[string]bool{}
	if len(m.methods.prefixes) > 0 {
		kind = byService
	}
	add := func(path string) bool {
		if kind == byService {
			path = grpcService(path)
		}
		if !known[path] {
			known[path] = true
			places = append(places, place{kind: kind, value: path})
		}
		return path != ""
	}
	for path := range m.methods.exact {
		if !add(path) {
			return nil
		}
	}
	for _, prefix := range m.methods.prefixes {
		if !add(prefix.text) {
			return nil
		}
	}
	return places
}
