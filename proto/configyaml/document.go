package configyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"buf.build/go/protoyaml"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// document is a YAML file whose fields can be found again by their path.
type document struct {
	// path is what errors call the file; empty for no file.
	path string
	// root is nil where there is no file or it is empty.
	root *yaml.Node
	// desc describes the message that the root holds.
	desc protoreflect.MessageDescriptor
}

// parse reads data into message. It finds what is wrong with the YAML and with
// its fit to the message; what the values may be is for checkRules.
func parse(path string, data []byte, message proto.Message) (*document, findings) {
	doc := &document{path: path, desc: message.ProtoReflect().Descriptor()}
	// With a line break at the end, what is missing there ("? a") has a line of
	// its own to be reported at.
	if len(data) > 0 && data[len(data)-1] != '\n' {
		data = append(slices.Clone(data), '\n')
	}
	root, found := parseYAML(data)
	if len(found) > 0 || root == nil {
		return doc, found
	}
	doc.root = root
	w := walker{}
	w.message(root, doc.desc, "")
	seen := make(map[place]bool, len(w.found))
	for _, f := range w.found {
		seen[place{f.line, f.column}] = true
	}
	var decoded findings
	for _, f := range decode(data, message) {
		// Both look at the same tree: what was said of a place, in better words,
		// is not said again.
		if at := (place{f.line, f.column}); !seen[at] {
			seen[at] = true
			decoded = append(decoded, f)
		}
	}
	doc.name(decoded)
	return doc, append(w.found, decoded...)
}

// place is where in a file something is.
type place struct{ line, column int }

// oddBreaks are what YAML counts as line breaks but nearly nothing else does,
// so that no line number would be right.
var oddBreaks = regexp.MustCompile("\r[^\n]|\r$|\u0085|\u2028|\u2029")

// yamlLine is how the YAML library begins an error.
var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?`)

// parseYAML returns the one document's root, nil if it is empty.
func parseYAML(data []byte) (root *yaml.Node, found findings) {
	if at := oddBreaks.FindIndex(data); at != nil {
		return nil, findings{{
			line: 1 + bytes.Count(data[:at[0]], []byte("\n")), column: 1,
			message: "has a line break that is not a newline: save it with Unix line ends",
		}}
	}
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return nil, findings{{line: 1, column: 1, message: "is UTF-16: save it as UTF-8"}}
	}
	defer func() {
		if r := recover(); r != nil {
			root, found = nil, findings{{line: 1, column: 1, message: fmt.Sprintf("cannot be read as YAML: %v", r)}}
		}
	}()
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	err := decoder.Decode(&first)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, findings{syntaxFinding(err)}
	}
	switch err := decoder.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, findings{syntaxFinding(err)}
	default:
		return nil, findings{{line: second.Line, column: second.Column, message: `has a second document: remove the line "---" and what follows`}}
	}
	if len(first.Content) == 0 || isNull(first.Content[0]) {
		return nil, nil
	}
	return first.Content[0], nil
}

func syntaxFinding(err error) finding {
	text := err.Error()
	at := yamlLine.FindStringSubmatch(text)
	line, _ := strconv.Atoi(at[1])
	message := "is not valid YAML: " + text[len(at[0]):]
	if strings.HasSuffix(message, "cannot start any token") {
		message += " (a tab? indent with spaces)"
	}
	return finding{line: max(line, 1), column: 1, message: message}
}

// nodeErrorAt is how protoyaml begins an error about a place: its path (which
// is left empty here), line and column.
var nodeErrorAt = regexp.MustCompile(`^:(\d+):(\d+) `)

// decode fills in message with what data says, ignoring unknown fields.
func decode(data []byte, message proto.Message) (found findings) {
	defer func() {
		if r := recover(); r != nil {
			found = append(found, finding{line: 1, column: 1, message: fmt.Sprintf("cannot be read: %v", r)})
		}
	}()
	err := protoyaml.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, message)
	if err == nil {
		return nil
	}
	all := []error{err}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		all = joined.Unwrap()
	}
	for _, err := range all {
		f := finding{line: 1, column: 1, message: err.Error()}
		if at := nodeErrorAt.FindStringSubmatch(f.message); at != nil {
			f.line, _ = strconv.Atoi(at[1])
			f.column, _ = strconv.Atoi(at[2])
			f.message, _, _ = strings.Cut(f.message[len(at[0]):], "\n")
		}
		found = append(found, f)
	}
	return found
}

// alreadySet is how protoyaml words two fields of one oneof.
var alreadySet = regexp.MustCompile(`^field (\w+) is already set`)

// reword says what protoyaml's message about a field's value means to somebody
// who writes configuration.
func reword(message, value string, fd protoreflect.FieldDescriptor) string {
	if other := alreadySet.FindStringSubmatch(message); other != nil {
		return fmt.Sprintf("is written beside %s: write one of them", other[1])
	}
	switch {
	case isDuration(fd):
		return fmt.Sprintf(`%q is not a duration: write a number with its unit (ns, us, ms, s, m, h), such as "5s"`, value)
	case isTime(fd):
		return fmt.Sprintf("%q is not a time: write date, time and zone, such as 2026-01-31T15:04:05Z or 2026-01-31T16:04:05+01:00", value)
	case fd.Message() != nil:
		return message
	case strings.Contains(message, "integer is too large"):
		return fmt.Sprintf("%q is too large a number", value)
	case strings.HasPrefix(message, "expected tag !!bool"):
		return fmt.Sprintf("%q in quotes is a text: write %s without them", value, value)
	}
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return fmt.Sprintf("%q is not true or false", value)
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return fmt.Sprintf("%q is not a whole number from 0 on (an amount of bytes may have a unit, such as 64Ki)", value)
	case protoreflect.DoubleKind:
		return fmt.Sprintf("%q is not a number", value)
	default:
		return message
	}
}

// locate returns the place of a field, or of the closest message or list
// around it that the file has.
func (d *document) locate(field string) (line, column int) {
	if d.root == nil {
		return 1, 1
	}
	node, desc := d.root, d.desc
	var inMap protoreflect.FieldDescriptor
	for _, element := range splitField(field) {
		var next *yaml.Node
		switch {
		case node.Kind == yaml.SequenceNode:
			if i, err := strconv.Atoi(element); err == nil && i >= 0 && i < len(node.Content) {
				next = node.Content[i]
			}
		case node.Kind != yaml.MappingNode:
		case inMap != nil:
			next = valueOf(node, func(key string) bool { return key == element })
			desc, inMap = inMap.MapValue().Message(), nil
		case desc != nil:
			fd := desc.Fields().ByTextName(element)
			if fd == nil {
				break
			}
			next = valueOf(node, func(key string) bool { return key == fd.TextName() || key == fd.JSONName() })
			desc = fd.Message()
			if fd.IsMap() {
				inMap = fd
			}
		}
		if next == nil {
			break
		}
		node = next
	}
	return node.Line, node.Column
}

// valueOf returns the value of the first key that matches, nil if none does.
func valueOf(mapping *yaml.Node, matches func(key string) bool) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if matches(mapping.Content[i].Value) {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// name adds to findings of which only the place is known the path of the field
// that is there, and words the message anew with the value that is there.
func (d *document) name(found findings) {
	if len(found) == 0 {
		return
	}
	at := make(map[place]*finding, len(found))
	for i := range found {
		at[place{found[i].line, found[i].column}] = &found[i]
	}
	w := walker{visit: func(node *yaml.Node, field string, fd protoreflect.FieldDescriptor) {
		if f := at[place{node.Line, node.Column}]; f != nil {
			f.field, f.message = field, reword(f.message, node.Value, fd)
			delete(at, place{node.Line, node.Column})
		}
	}}
	w.message(d.root, d.desc, "")
}

// splitField splits `a.b["c"][0]` into a, b, c and 0.
func splitField(field string) []string {
	var elements []string
	for field != "" {
		switch {
		case field[0] == '.':
			field = field[1:]
		case strings.HasPrefix(field, `["`):
			quoted, err := strconv.QuotedPrefix(field[1:])
			if err != nil {
				return elements
			}
			key, _ := strconv.Unquote(quoted)
			elements = append(elements, key)
			field = strings.TrimPrefix(field[1+len(quoted):], "]")
		case field[0] == '[':
			index, rest, _ := strings.Cut(field[1:], "]")
			elements = append(elements, index)
			field = rest
		default:
			end := strings.IndexAny(field, ".[")
			if end < 0 {
				end = len(field)
			}
			elements = append(elements, field[:end])
			field = field[end:]
		}
	}
	return elements
}
