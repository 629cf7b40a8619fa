package policy

import (
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
	// lengths has a bit for each length of an edited key: most fields need not be
	// looked for among them.
	lengths uint64
}

// edit replaces all fields of a key by at most one.
type edit struct {
	key   string
	value string
	set   bool // false: the key is removed
}

// Apply removes, sets and adds, and returns the fields. It works on the slice that it
// is given, which it may have to grow. A key that is set takes the place of its first
// field. Pseudo fields and gRPC's own are never among those that change, because no
// change that names them is compiled.
func (c *Change) Apply(fields []hpack.Field) []hpack.Field {
	if c == nil {
		return fields
	}
	if len(c.edits) > 0 {
		fields = c.edit(fields)
	}
	return append(fields, c.add...)
}

// maxEdits is how many edits there may be: 64 keys that are removed, as many that
// are set, and the group's.
const maxEdits = 2*64 + 1

func (c *Change) edit(fields []hpack.Field) []hpack.Field {
	var done [(maxEdits + 63) / 64]uint64 // which keys were set at their first field
	kept := 0
	for i := range fields {
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
		fields[kept] = hpack.Field{Name: e.key, Value: e.value}
		kept++
	}
	clear(fields[kept:]) // what is left there would keep memory, or be taken for fields
	fields = fields[:kept]
	for at := range c.edits {
		if c.edits[at].set && done[at/64]&(1<<(at%64)) == 0 {
			fields = append(fields, hpack.Field{Name: c.edits[at].key, Value: c.edits[at].value})
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
			if c.edits[at].key == key {
				return at, true
			}
		}
		return 0, false
	}
	low, high := 0, len(c.edits)
	for low < high {
		middle := int(uint(low+high) >> 1)
		if c.edits[middle].key < key {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low, low < len(c.edits) && c.edits[low].key == key
}

// compileChange compiles a change; group, where it is not "", is the key that is set
// to groupName beside what the change says. The result is nil where nothing changes.
func (p *problems) compileChange(field string, m *configv1.MetadataChange, group, groupName string) *Change {
	edits := map[string]edit{}
	for i, key := range m.GetRemove() {
		p.checkKey(at(field+".remove", i), key, "")
		edits[key] = edit{key: key}
	}
	c := &Change{}
	for _, key := range slices.Sorted(maps.Keys(m.GetSet())) {
		p.checkKey(of(field+".set", key), key, m.GetSet()[key])
		edits[key] = edit{key: key, value: m.GetSet()[key], set: true}
	}
	for _, key := range slices.Sorted(maps.Keys(m.GetAdd())) {
		p.checkKey(of(field+".add", key), key, m.GetAdd()[key])
		c.add = append(c.add, hpack.Field{Name: key, Value: m.GetAdd()[key]})
	}
	if group != "" {
		if _, taken := edits[group]; taken || slices.ContainsFunc(c.add, func(f hpack.Field) bool { return f.Name == group }) {
			p.addf(field, "changes %q, in which the app is told its group: choose another group_key, or leave the key alone", group)
		}
		edits[group] = edit{key: group, value: groupName, set: true}
	}
	for _, key := range slices.Sorted(maps.Keys(edits)) {
		c.edits = append(c.edits, edits[key])
		c.lengths |= lengthBit(key)
	}
	if len(c.edits) == 0 && len(c.add) == 0 {
		return nil
	}
	return c
}

// keptKeys are those that HTTP and gRPC need as they are (RFC 9113 section 8.2.2;
// gRPC's PROTOCOL-HTTP2).
var keptKeys = []string{
	"connection", "content-length", "content-type", "host", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade",
}

// DefaultGroupKey is the metadata key in which an app is told its group unless the
// split says otherwise.
const DefaultGroupKey = "pillion-group"

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
	case strings.HasPrefix(key, "pillion-") && key != DefaultGroupKey:
		return quoted(key) + " is Pillion's own: use another key"
	}
	return keySyntaxProblem(key)
}
