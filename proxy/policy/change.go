package policy

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// Change is a change of metadata. A nil one changes nothing.
type Change struct {
	// edits are in the order of their keys; no key is there twice.
	edits []edit
	// add are appended as they are, in the order of their keys.
	add []hpack.Field
	// fresh is what is appended where there is no field of an edited key: all that are
	// set, and add.
	fresh []hpack.Field
	// lengths has a bit for each length of an edited key: most fields need not be
	// looked for among them.
	lengths uint64
}

// edit replaces all fields of a key by at most one.
type edit struct {
	key
	value string
	set   bool // false: the key is removed
}

// newChange makes a change of edits and of what is added, in the order of their keys. It
// is nil where nothing changes.
func newChange(edits map[string]edit, add []hpack.Field) *Change {
	if len(edits) == 0 && len(add) == 0 {
		return nil
	}
	c := &Change{add: add}
	for _, key := range slices.Sorted(maps.Keys(edits)) {
		e := edits[key]
		c.edits = append(c.edits, e)
		c.lengths |= lengthBit(key)
		if e.set {
			c.fresh = append(c.fresh, e.field())
		}
	}
	c.fresh = append(c.fresh, add...)
	return c
}

func (e *edit) field() hpack.Field { return hpack.Field{Name: e.text, Value: e.value} }

// then returns the change that comes to the same as c, and then another. Both may be nil.
func (c *Change) then(next *Change) *Change {
	if c == nil || next == nil {
		return cmp.Or(c, next)
	}
	edits := map[string]edit{}
	for _, e := range slices.Concat(c.edits, next.edits) {
		edits[e.text] = e
	}
	var add []hpack.Field
	for _, f := range c.add { // those that next does not edit
		if _, edited := next.find(f.Name); !edited {
			add = append(add, f)
		}
	}
	return newChange(edits, append(add, next.add...))
}

// addInstead returns the change that adds what this one sets for a key; the key may be "".
func (c *Change) addInstead(key string) *Change {
	if c == nil {
		return nil
	}
	edits := map[string]edit{}
	var add []hpack.Field
	for _, e := range c.edits {
		if e.text == key {
			add = append(add, e.field())
		} else {
			edits[e.text] = e
		}
	}
	return newChange(edits, append(add, c.add...))
}

// Apply removes, sets and adds, and returns the fields. It works on the slice that it
// is given, which it may have to grow. A key that is set takes the place of its first
// field. Pseudo fields and gRPC's own are never among those that change, because no
// change that names them is compiled.
func (c *Change) Apply(fields []hpack.Field) []hpack.Field {
	if c == nil {
		return fields
	}
	for i := range fields {
		if _, found := c.find(fields[i].Name); found {
			return append(c.edit(fields, i), c.add...)
		}
	}
	return append(fields, c.fresh...)
}

// ApplyTo is Apply on an RPC's fields. They are not to be looked at afterwards.
func (c *Change) ApplyTo(rpc *RPC) []hpack.Field {
	if c == nil {
		return rpc.Fields
	}
	for i := range c.edits {
		if at := rpc.find(&c.edits[i].key); at >= 0 {
			return c.Apply(rpc.Fields)
		}
	}
	return append(rpc.Fields, c.fresh...)
}

// maxEdits is how many edits a policy may say at a place: 64 keys that are removed, as
// many that are set, and the group's. A rule and a group have one such place each.
const maxEdits = 2*64 + 1

// edit makes the edits; the fields before the first are not among them.
func (c *Change) edit(fields []hpack.Field, first int) []hpack.Field {
	var done [(2*maxEdits + 63) / 64]uint64 // which keys were set at their first field
	kept := first
	for i := first; i < len(fields); i++ {
		at, found := c.find(fields[i].Name)
		if !found {
			if kept != i {
				fields[kept] = fields[i]
			}
			kept++
			continue
		}
		e := &c.edits[at]
		if !e.set || done[at/64]&(1<<(at%64)) != 0 {
			continue
		}
		done[at/64] |= 1 << (at % 64)
		fields[kept] = e.field()
		kept++
	}
	clear(fields[kept:]) // what is left there would keep memory, or be taken for fields
	fields = fields[:kept]
	for at := range c.edits {
		if c.edits[at].set && done[at/64]&(1<<(at%64)) == 0 {
			fields = append(fields, c.edits[at].field())
		}
	}
	return fields
}

// find returns the place of a key's edit.
func (c *Change) find(key string) (at int, found bool) {
	if c.lengths&lengthBit(key) == 0 {
		return 0, false
	}
	return c.search(key)
}

// search is find for keys of the right length. A few edits are compared one by one:
// that takes no more than a look at their lengths, mostly.
func (c *Change) search(key string) (at int, found bool) {
	if len(c.edits) <= 8 {
		for at := range c.edits {
			if c.edits[at].text == key {
				return at, true
			}
		}
		return 0, false
	}
	low, high := 0, len(c.edits)
	for low < high {
		middle := int(uint(low+high) >> 1)
		if c.edits[middle].text < key {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, low < len(c.edits) && c.edits[low].text == key
}

// compileChange compiles a change; group, where it is not "", is the key that is set
// to groupName beside what the change says. The result is nil where nothing changes.
func (p *problems) compileChange(field string, m *configv1.MetadataChange, group, groupName string) *Change {
	edits := map[string]edit{}
	for i, key := range m.GetRemove() {
		p.checkKey(at(field+".remove", i), key, "")
		edits[key] = edit{key: newKey(key)}
	}
	var add []hpack.Field
	for _, key := range slices.Sorted(maps.Keys(m.GetSet())) {
		p.checkKey(of(field+".set", key), key, m.GetSet()[key])
		edits[key] = edit{key: newKey(key), value: m.GetSet()[key], set: true}
	}
	for _, key := range slices.Sorted(maps.Keys(m.GetAdd())) {
		p.checkKey(of(field+".add", key), key, m.GetAdd()[key])
		add = append(add, hpack.Field{Name: key, Value: m.GetAdd()[key]})
	}
	if group != "" {
		if _, taken := edits[group]; taken || slices.ContainsFunc(add, func(f hpack.Field) bool { return f.Name == group }) {
			p.addf(field, "changes %q, in which the app is told its group: choose another group_key, or leave the key alone", group)
		}
		edits[group] = edit{key: newKey(group), value: groupName, set: true}
	}
	return newChange(edits, add)
}

// keptKeys are those that HTTP and gRPC need as they are (RFC 9113 section 8.2.2;
// gRPC's PROTOCOL-HTTP2).
var keptKeys = []string{
	"connection", "content-length", "content-type", "host", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade",
}

// DefaultGroupKey is the metadata key in which an app is told its group unless the
// split says otherwise.
const DefaultGroupKey = "pillion-group"

// ExperimentKeyPrefix is what those keys begin with in which the app is told its variants,
// unless experiments say otherwise.
const ExperimentKeyPrefix = "pillion-experiment-"

// checkKey reports what is wrong with a key that is to change, and with its value.
func (p *problems) checkKey(field, key, value string) {
	switch reason := p.keyProblem(key); {
	case reason != "":
		p.addf(field, "%s", reason)
	case strings.HasSuffix(key, "-bin"):
		if _, ok := decodeBinary(nil, value); !ok {
			p.addf(field, "the value of %q is not base64, as those of -bin keys are on the wire", key)
		}
	default:
		if i := strings.IndexFunc(value, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
			p.addf(field, "the value of %q has a character that metadata must not have (at byte %d): use printable ASCII, or a -bin key", key, i+1)
		} else if strings.Trim(value, " ") != value {
			p.addf(field, "the value of %q begins or ends with a space, which would be lost on the way", key)
		}
	}
}

// keyProblem says why a key must not change; "": it may.
func (p *problems) keyProblem(key string) string {
	switch {
	case strings.HasPrefix(key, ":"):
		return quoted(key) + " is a pseudo field of HTTP/2, which no policy changes (authority has a field of its own)"
	case strings.HasPrefix(key, "grpc-"):
		return quoted(key) + " is gRPC's own, which no policy changes"
	case slices.Contains(keptKeys, key):
		return quoted(key) + " is HTTP's own, which no policy changes"
	case strings.HasPrefix(key, "pillion-") && key != DefaultGroupKey && !strings.HasPrefix(key, ExperimentKeyPrefix):
		return quoted(key) + " is Pillion's own: use another key"
	}
	return keySyntaxProblem(key)
}
