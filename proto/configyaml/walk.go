package configyaml

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// walker goes through a YAML tree side by side with the description of the
// message that it holds, and finds what a decoder lets pass or words badly:
// unknown and repeated names, values of the wrong shape, values that are
// missing, aliases.
type walker struct {
	found findings
	// visit, if set, is called with each value, its field path, and what the
	// field is described by; nil for the file itself.
	visit func(node *yaml.Node, field string, fd protoreflect.FieldDescriptor)
}

func (w *walker) addf(node *yaml.Node, field, format string, args ...any) {
	w.found = append(w.found, finding{
		field: field, message: fmt.Sprintf(format, args...), line: node.Line, column: node.Column,
	})
}

func (w *walker) message(node *yaml.Node, desc protoreflect.MessageDescriptor, path string) {
	if isNull(node) {
		return // "admin:" alone is an empty block
	}
	if !w.kind(node, path, yaml.MappingNode, "names with values ("+example(desc)+")") {
		return
	}
	seen := map[protoreflect.FieldNumber]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if !w.key(key, path) {
			continue
		}
		fd := desc.Fields().ByTextName(key.Value)
		if fd == nil {
			fd = desc.Fields().ByJSONName(key.Value)
		}
		if fd == nil {
			w.addf(key, path, "%s", unknownField(key.Value, desc))
			continue
		}
		field := join(path, fd.TextName())
		if seen[fd.Number()] {
			w.addf(key, field, "is written twice: remove one")
			continue
		}
		seen[fd.Number()] = true
		w.field(value, fd, field)
	}
}

func (w *walker) field(node *yaml.Node, fd protoreflect.FieldDescriptor, path string) {
	switch {
	case fd.IsList():
		w.list(node, fd, path)
	case fd.IsMap():
		w.mapping(node, fd, path)
	default:
		w.value(node, fd, path)
	}
}

func (w *walker) list(node *yaml.Node, fd protoreflect.FieldDescriptor, path string) {
	if w.visit != nil {
		w.visit(node, path, fd)
	}
	if isNull(node) {
		w.addf(node, path, "has no value: write [] for none, or remove the line")
		return
	}
	if !w.kind(node, path, yaml.SequenceNode, "a list ([...], or lines that begin with -)") {
		return
	}
	for i, item := range node.Content {
		w.value(item, fd, fmt.Sprintf("%s[%d]", path, i))
	}
}

func (w *walker) mapping(node *yaml.Node, fd protoreflect.FieldDescriptor, path string) {
	if w.visit != nil {
		w.visit(node, path, fd)
	}
	if isNull(node) {
		w.addf(node, path, "has no value: write {} for none, or remove the line")
		return
	}
	if !w.kind(node, path, yaml.MappingNode, "names with values (name: value)") {
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if !w.key(key, path) {
			continue
		}
		field := fmt.Sprintf("%s[%q]", path, key.Value)
		if seen[key.Value] {
			w.addf(key, field, "is written twice: remove one")
			continue
		}
		seen[key.Value] = true
		w.value(value, fd.MapValue(), field)
	}
}

// value looks at one value, of a list or a map or of its own.
func (w *walker) value(node *yaml.Node, fd protoreflect.FieldDescriptor, path string) {
	if w.visit != nil {
		w.visit(node, path, fd)
	}
	if fd.Message() != nil && !isDuration(fd) && !isTime(fd) {
		w.message(node, fd.Message(), path)
		return
	}
	want := wanted(fd)
	if isNull(node) {
		w.addf(node, path, "has no value: write %s, or remove the line", want)
		return
	}
	w.kind(node, path, yaml.ScalarNode, want)
}

func (w *walker) key(node *yaml.Node, path string) bool {
	if node.Tag == "!!merge" { // elsewhere it is a text like others
		w.alias(node, path)
		return false
	}
	return w.kind(node, path, yaml.ScalarNode, "a name")
}

func (w *walker) alias(node *yaml.Node, path string) {
	w.addf(node, path, "aliases (*name, <<) are not supported: write the value out")
}

func (w *walker) kind(node *yaml.Node, path string, kind yaml.Kind, want string) bool {
	switch {
	case node.Kind == yaml.AliasNode:
		w.alias(node, path)
		return false
	case node.Kind != kind:
		w.addf(node, path, "is %s, but must be %s", kindName(node), want)
		return false
	}
	return true
}

func kindName(node *yaml.Node) string {
	switch node.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a block of names with values"
	default:
		return "a single value"
	}
}

// wanted says in words what a value of the field looks like.
func wanted(fd protoreflect.FieldDescriptor) string {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		if isTime(fd) {
			return "a time such as 2026-01-31T15:04:05Z"
		}
		return `a duration such as "5s"`
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.StringKind:
		return "a text"
	default:
		return "a number"
	}
}

// example names a field or two of a message.
func example(desc protoreflect.MessageDescriptor) string {
	fields := desc.Fields()
	if fields.Len() == 0 {
		return "{}"
	}
	names := make([]string, 0, 3)
	for i := range min(fields.Len(), 2) {
		names = append(names, fields.Get(i).TextName()+": …")
	}
	return strings.Join(names, ", ")
}

func unknownField(name string, desc protoreflect.MessageDescriptor) string {
	fields := desc.Fields()
	known := make([]string, 0, fields.Len())
	for i := range fields.Len() {
		known = append(known, fields.Get(i).TextName())
	}
	switch near := nearest(name, known); {
	case len(known) == 0:
		return fmt.Sprintf("unknown field %q: nothing can be set here yet: remove it", name)
	case near != "":
		return fmt.Sprintf("unknown field %q: did you mean %q?", name, near)
	default:
		return fmt.Sprintf("unknown field %q: known here: %s", name, strings.Join(known, ", "))
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func isDuration(fd protoreflect.FieldDescriptor) bool {
	return fd.Message() != nil && fd.Message().FullName() == "google.protobuf.Duration"
}

func isTime(fd protoreflect.FieldDescriptor) bool {
	return fd.Message() != nil && fd.Message().FullName() == "google.protobuf.Timestamp"
}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.Tag == "!!null"
}
