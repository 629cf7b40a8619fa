package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	duration  protoreflect.FullName = "google.protobuf.Duration"
	timestamp protoreflect.FullName = "google.protobuf.Timestamp"
)

// takes says what may be written for a field of the message at path.
func takes(field *protogen.Field, path string) string {
	rules := rulesOf(field)
	switch {
	case field.Desc.IsMap():
		return "map of " + plural(field.Message.Fields[1], path, field)
	case field.Desc.IsList():
		return "list of " + plural(field, path, field)
	case blockOf(field) != nil:
		return "[block](#" + anchor(pathOf(path, field)) + ")"
	}
	switch field.Desc.Kind() {
	case protoreflect.MessageKind:
		if field.Message.Desc.FullName() == timestamp {
			return "time, such as `2026-01-31T15:04:05Z`"
		}
		return "duration" + between(rules.GetDuration().GetGte().AsDuration() > 0,
			shortDuration(rules.GetDuration().GetGte()), shortDuration(rules.GetDuration().GetLte()))
	case protoreflect.BoolKind:
		return "`true` or `false`"
	case protoreflect.DoubleKind:
		return number(rules.GetDouble())
	case protoreflect.Uint32Kind:
		r := rules.GetUint32()
		most := r.GetLte()
		if r.GetLt() > 0 {
			most = r.GetLt() - 1
		}
		return amount(field, uint64(r.GetGte()), uint64(most))
	case protoreflect.Uint64Kind:
		r := rules.GetUint64()
		return amount(field, r.GetGte(), r.GetLte())
	}
	if names := rules.GetString().GetIn(); len(names) > 0 {
		var quoted []string
		for _, name := range names {
			if name != "" {
				quoted = append(quoted, "`"+name+"`")
			}
		}
		return strings.Join(quoted, ", ")
	}
	return "text"
}

// plural is what a list or a map holds. held is the field with the type, of
// which the other one is the list or map.
func plural(held *protogen.Field, path string, of *protogen.Field) string {
	if blockOf(of) != nil {
		return "[blocks](#" + anchor(pathOf(path, of)) + ")"
	}
	if held.Desc.Kind() == protoreflect.StringKind {
		return "texts"
	}
	return held.Desc.Kind().String() + "s"
}

func rulesOf(field *protogen.Field) *validate.FieldRules {
	rules, _ := proto.GetExtension(field.Desc.Options(), validate.E_Field).(*validate.FieldRules)
	return rules
}

// amount is a number or an amount of bytes, which is one where the comment says
// so.
func amount(field *protogen.Field, least, most uint64) string {
	if regexp.MustCompile(`\bbytes\b`).MatchString(string(field.Comments.Leading)) {
		return "bytes" + between(least > 0, shortBytes(least), shortBytes(most))
	}
	return "number" + between(least > 0, strconv.FormatUint(least, 10), strconv.FormatUint(most, 10))
}

// number is a number that need not be whole.
func number(r *validate.DoubleRules) string {
	text := fmt.Sprintf("number from %v", r.GetGte())
	if r.HasGt() {
		text = fmt.Sprintf("number above %v", r.GetGt())
	}
	if r.HasLt() {
		return text + fmt.Sprintf(" to below %v", r.GetLt())
	}
	return text + fmt.Sprintf(" to %v", r.GetLte())
}

func between(hasLeast bool, least, most string) string {
	if hasLeast {
		return ", " + least + " to " + most
	}
	return ", up to " + most
}

// shortBytes writes an amount as configuration does: 65536 is 64Ki.
func shortBytes(n uint64) string {
	for _, unit := range []struct {
		shift uint
		name  string
	}{{40, "Ti"}, {30, "Gi"}, {20, "Mi"}, {10, "Ki"}} {
		if n >= 1<<unit.shift && n%(1<<unit.shift) == 0 {
			return strconv.FormatUint(n>>unit.shift, 10) + unit.name
		}
	}
	return strconv.FormatUint(n, 10)
}

// shortDuration writes a duration as configuration does: an hour is 1h, a week
// 168h.
func shortDuration(d *durationpb.Duration) string {
	text := d.AsDuration().String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// splitDefault takes the sentence that says the default out of a field's
// comment.
func splitDefault(comment string) (rest, standard string) {
	before, after, ok := strings.Cut(comment, "Default: ")
	if !ok {
		return comment, ""
	}
	quoted := false
	for i, r := range after {
		switch {
		case r == '"':
			quoted = !quoted
		case r == '.' && !quoted && (i+1 == len(after) || after[i+1] == ' '):
			return strings.TrimSpace(before + strings.TrimPrefix(after[i+1:], " ")), after[:i]
		}
	}
	return strings.TrimSpace(before), after
}

// literal is a value at the beginning of what is said of a default.
var literal = regexp.MustCompile(`^(\d\w*|true|false)([,; ].*)?$`)

// whenLeftOut says what holds where a field is not written.
func whenLeftOut(field *protogen.Field, standard string) string {
	if standard != "" {
		return literal.ReplaceAllString(standard, "`$1`$2")
	}
	switch {
	case rulesOf(field).GetRequired():
		return "must be written"
	case field.Desc.IsMap() || field.Desc.IsList():
		return "empty"
	case blockOf(field) != nil:
		return ""
	default:
		return "none"
	}
}
