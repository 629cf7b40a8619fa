package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Field is a field that changes. A side that is "" has it not.
type Field struct {
	Path   string `json:"path"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// maxFields bounds the fields that are told of one document.
const maxFields = 200

// Fields returns the fields in which two messages of one type differ, of which one may be
// nil. Elements of lists that have names are compared by these, others by their places.
func Fields(before, after proto.Message) []Field {
	var c comparison
	var a, b protoreflect.Message
	if before != nil {
		a = before.ProtoReflect()
	}
	if after != nil {
		b = after.ProtoReflect()
	}
	c.messages("", a, b)
	if more := len(c.fields) - maxFields; more > 0 {
		c.fields = append(c.fields[:maxFields], Field{Path: fmt.Sprintf("and %d more", more)})
	}
	return c.fields
}

type comparison struct{ fields []Field }

func (c *comparison) note(path, before, after string) {
	if before != after {
		c.fields = append(c.fields, Field{path, before, after})
	}
}

// messages compares two messages. One may be nil.
func (c *comparison) messages(path string, a, b protoreflect.Message) {
	one := cmp.Or(a, b)
	if one == nil {
		return
	}
	fields := one.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		inA, inB := a != nil && a.Has(f), b != nil && b.Has(f)
		if !inA && !inB {
			continue
		}
		at := below(path, string(f.Name()))
		var x, y protoreflect.Value
		if inA {
			x = a.Get(f)
		}
		if inB {
			y = b.Get(f)
		}
		if hasZero(f) { // that it is not written says as much
			if a != nil {
				x = a.Get(f)
			}
			if b != nil {
				y = b.Get(f)
			}
		}
		switch {
		case f.IsMap():
			c.maps(at, f, x, y)
		case f.IsList():
			c.lists(at, f, x, y)
		default:
			c.values(at, f, x, y)
		}
	}
}

// hasZero says that a field is a number or a truth value that always has a value.
func hasZero(f protoreflect.FieldDescriptor) bool {
	return !f.IsList() && !f.IsMap() && !f.HasPresence() && f.Kind() != protoreflect.StringKind && f.Kind() != protoreflect.BytesKind
}

func below(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// values compares two single values. One may be invalid: it is not there.
func (c *comparison) values(path string, f protoreflect.FieldDescriptor, x, y protoreflect.Value) {
	if f.Message() == nil {
		c.note(path, scalar(x), scalar(y))
		return
	}
	if x.IsValid() && isPlain(x.Message()) || y.IsValid() && isPlain(y.Message()) {
		c.note(path, plain(x), plain(y))
		return
	}
	var a, b protoreflect.Message
	if x.IsValid() {
		a = x.Message()
	}
	if y.IsValid() {
		b = y.Message()
	}
	known := len(c.fields)
	c.messages(path, a, b)
	if known == len(c.fields) && (a == nil) != (b == nil) { // an empty message says something too
		c.note(path, there(a != nil), there(b != nil))
	}
}

func there(is bool) string {
	if is {
		return "{}"
	}
	return ""
}

// isPlain says that a message is told as one value.
func isPlain(m protoreflect.Message) bool {
	switch m.Interface().(type) {
	case *durationpb.Duration, *timestamppb.Timestamp:
		return true
	}
	return false
}

func plain(v protoreflect.Value) string {
	if !v.IsValid() {
		return ""
	}
	switch m := v.Message().Interface().(type) {
	case *durationpb.Duration:
		return m.AsDuration().String()
	case *timestamppb.Timestamp:
		return m.AsTime().Format("2006-01-02T15:04:05Z07:00")
	}
	return ""
}

func scalar(v protoreflect.Value) string {
	if !v.IsValid() {
		return ""
	}
	if text, ok := v.Interface().(string); ok {
		return fmt.Sprintf("%q", text)
	}
	return v.String()
}

// lists compares two lists.
func (c *comparison) lists(path string, f protoreflect.FieldDescriptor, x, y protoreflect.Value) {
	a, b := elements(x), elements(y)
	if f.Message() == nil {
		c.note(path, joined(a), joined(b))
		return
	}
	byName := func(list []protoreflect.Value) (names []string, at map[string]protoreflect.Value) {
		at = map[string]protoreflect.Value{}
		for i, v := range list {
			name := cmp.Or(nameOf(v.Message()), strconv.Itoa(i))
			if _, twice := at[name]; twice {
				name = fmt.Sprintf("%s#%d", name, i)
			}
			names = append(names, name)
			at[name] = v
		}
		return names, at
	}
	namesA, inA := byName(a)
	namesB, inB := byName(b)
	all := slices.Clone(namesB)
	for _, name := range namesA {
		if _, stays := inB[name]; !stays {
			all = append(all, name)
		}
	}
	for _, name := range all {
		c.values(path+"["+name+"]", f, inA[name], inB[name])
	}
	stayA := slices.DeleteFunc(slices.Clone(namesA), func(n string) bool { _, stays := inB[n]; return !stays })
	stayB := slices.DeleteFunc(slices.Clone(namesB), func(n string) bool { _, stays := inA[n]; return !stays })
	if !slices.Equal(stayA, stayB) {
		c.note(path+" (order)", strings.Join(stayA, ", "), strings.Join(stayB, ", "))
	}
}

func elements(v protoreflect.Value) (list []protoreflect.Value) {
	if v.IsValid() {
		for i := range v.List().Len() {
			list = append(list, v.List().Get(i))
		}
	}
	return list
}

func joined(list []protoreflect.Value) string {
	texts := make([]string, 0, len(list))
	for _, v := range list {
		texts = append(texts, scalar(v))
	}
	return strings.Join(texts, ", ")
}

// nameOf is what an element of a list is called; "": nothing calls it.
func nameOf(m protoreflect.Message) string {
	for _, name := range []protoreflect.Name{"name", "group", "subset", "key"} {
		if f := m.Descriptor().Fields().ByName(name); f != nil && f.Kind() == protoreflect.StringKind && m.Get(f).String() != "" {
			return m.Get(f).String()
		}
	}
	return ""
}

// maps compares two maps.
func (c *comparison) maps(path string, f protoreflect.FieldDescriptor, x, y protoreflect.Value) {
	keys := map[string]protoreflect.MapKey{}
	for _, v := range []protoreflect.Value{x, y} {
		if v.IsValid() {
			v.Map().Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
				keys[k.String()] = k
				return true
			})
		}
	}
	names := make([]string, 0, len(keys))
	for name := range keys {
		names = append(names, name)
	}
	slices.Sort(names)
	get := func(v protoreflect.Value, k protoreflect.MapKey) protoreflect.Value {
		if !v.IsValid() || !v.Map().Has(k) {
			return protoreflect.Value{}
		}
		return v.Map().Get(k)
	}
	for _, name := range names {
		c.values(path+"["+name+"]", f.MapValue(), get(x, keys[name]), get(y, keys[name]))
	}
}
