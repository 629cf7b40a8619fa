package configyaml

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"weak"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// rules are the schema's, compiled as messages need them.
type rules struct{ protovalidate.Validator }

// compiled holds the rules while somebody has them: they take more memory than
// everything else of configuration, milliseconds to make, and are needed once in
// the life of most sidecars.
var compiled struct {
	sync.Mutex
	rules weak.Pointer[rules]
}

// compiledRules returns the rules. Those who check several messages keep them until
// they are through.
func compiledRules() (*rules, error) {
	compiled.Lock()
	defer compiled.Unlock()
	if r := compiled.rules.Value(); r != nil {
		return r, nil
	}
	v, err := protovalidate.New()
	if err != nil {
		return nil, err
	}
	r := &rules{v}
	compiled.rules = weak.Make(r)
	return r, nil
}

// HoldRules has the schema's rules, which take 3 MB and 60 ms to make, stay in memory until
// the function that it returns is called: for those who check many messages one by one, or
// again and again, such as the documents of a store.
func HoldRules() (letGo func()) {
	r, _ := compiledRules()
	return func() { runtime.KeepAlive(r) }
}

// checkRules checks the rules that the schema states for single fields.
func checkRules(message proto.Message) findings {
	r, err := compiledRules()
	if err == nil {
		err = r.Validate(message)
	}
	if err == nil {
		return nil
	}
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) {
		return findings{{message: err.Error()}}
	}
	var found findings
	for _, violation := range invalid.Violations {
		elements := violation.Proto.GetField().GetElements()
		if oneof := oneofAt(message.ProtoReflect().Descriptor(), elements); oneof != nil {
			parent := &validate.FieldPath{Elements: elements[:len(elements)-1]}
			found.addf(protovalidate.FieldPathString(parent), "write one of %s here", strings.Join(fieldNames(oneof.Fields()), ", "))
			found[len(found)-1].missing = true
			continue
		}
		found = append(found, finding{
			field:   protovalidate.FieldPathString(violation.Proto.GetField()),
			message: inWords(violation), missing: violation.Proto.GetRuleId() == "required",
		})
	}
	return found
}

// alsoRules adds to what was found in reading a message what its rules say of
// the fields that could be read, so that one look is enough to mend a file.
func alsoRules(found findings, message proto.Message) findings {
	named := make(map[string]bool, len(found))
	for _, f := range found {
		named[f.field] = true
	}
	for _, f := range checkRules(message) {
		// What is missing may be what could not be read.
		if !f.missing && !named[f.field] {
			found = append(found, f)
		}
	}
	return found
}

// oneofAt returns the oneof that a path ends at, nil if it ends at a field.
func oneofAt(desc protoreflect.MessageDescriptor, path []*validate.FieldPathElement) protoreflect.OneofDescriptor {
	for i, element := range path {
		name := protoreflect.Name(element.GetFieldName())
		if i == len(path)-1 {
			return desc.Oneofs().ByName(name)
		}
		fd := desc.Fields().ByName(name)
		if fd != nil && fd.IsMap() {
			fd = fd.MapValue()
		}
		if fd == nil || fd.Message() == nil {
			return nil
		}
		desc = fd.Message()
	}
	return nil
}

// patterns says in words what the schema's regular expressions ask for.
var patterns = []struct{ ruleMark, words string }{
	{`[{]service[}]`, `is no SPIFFE ID with {service} in it, such as "spiffe://{trust_domain}/svc/{service}"`},
	{`^(spiffe://.+|`, `is neither a SPIFFE ID, such as "spiffe://example.org/svc/web", nor a service's name`},
	{`spiffe://.+`, `is no SPIFFE ID, such as "spiffe://example.org/svc/web"`},
	{`unix:/|tcp://`, `is neither "unix:///path" nor "tcp://ip:port"`},
	{`[a-z0-9._-]`, `is no trust domain, such as "example.org"`},
	{`[.][A-Za-z_]`, `is not a full gRPC service name such as "helloworld.Greeter"`},
	{`[A-Za-z0-9_.-]*[A-Za-z0-9]`, `may hold letters, digits, ".", "-" and "_", and begins and ends with a letter or a digit`},
	{`[A-Za-z0-9_-]*[A-Za-z0-9]`, `may hold letters, digits, "-" and "_", and begins and ends with a letter or a digit`},
	{`[A-Za-z0-9_.:-]`, `may hold letters, digits, ".", ":", "-" and "_"`},
	{`[A-Za-z0-9_./-]`, `may hold letters, digits, ".", "/", "-" and "_"`},
	{`[A-Za-z0-9_-]`, `may hold letters, digits, "-" and "_"`},
}

// inWords says what a violation means, with the value that is wrong.
func inWords(v *protovalidate.Violation) string {
	rule, message := v.Proto.GetRuleId(), v.Proto.GetMessage()
	switch rule {
	case "required":
		return "is missing"
	case "string.pattern":
		for _, p := range patterns {
			if strings.Contains(v.RuleValue.String(), p.ruleMark) {
				return fmt.Sprintf("%s %s", shown(v.FieldValue), p.words)
			}
		}
	case "string.in":
		var names []string
		for i := range v.RuleValue.List().Len() {
			if name := v.RuleValue.List().Get(i).String(); name != "" {
				names = append(names, name)
			}
		}
		value := v.FieldValue.String()
		if near := nearest(value, names); near != "" {
			return fmt.Sprintf("%q is not known: did you mean %q?", value, near)
		}
		return fmt.Sprintf("%q is not known: use one of %s", value, strings.Join(names, ", "))
	case "repeated.unique":
		return "names something twice: remove one"
	}
	if s := shown(v.FieldValue); s != "" {
		return "is " + s + ", but " + message
	}
	return message
}

func fieldNames(fields protoreflect.FieldDescriptors) []string {
	names := make([]string, 0, fields.Len())
	for i := range fields.Len() {
		names = append(names, fields.Get(i).TextName())
	}
	return names
}

// shown returns a single value as it would be written, shortened; "" for
// others.
func shown(value protoreflect.Value) string {
	switch v := value.Interface().(type) {
	case string:
		if len(v) > 80 {
			v = v[:80] + "…"
		}
		return fmt.Sprintf("%q", v)
	case bool, int32, int64, uint32, uint64, float32, float64:
		return fmt.Sprint(v)
	default:
		return ""
	}
}
