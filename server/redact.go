package server

import (
	"net/url"
	"regexp"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

const hidden = "[redacted]"

// secretName matches the names of fields and the keys of maps that hold a
// secret, whoever wrote the schema or the file. The name of a file that holds
// one is none.
var (
	secretName = regexp.MustCompile(`(?i)passw(or)?d|passphrase|secret|token|credential|api_?-?key|private_?-?key`)
	fileName   = regexp.MustCompile(`(?i)[_-](file|path|dir)$`)
)

// redacted returns a copy of a message without its secrets: what the schema
// marks with debug_redact, what is named like one, and passwords in URLs.
func redacted[M proto.Message](message M) M {
	shown := proto.CloneOf(message)
	redactMessage(shown.ProtoReflect())
	return shown
}

func redactMessage(m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		secret := isSecret(field)
		switch {
		case field.IsMap():
			redactMap(field.MapValue(), value.Map(), secret)
		case field.IsList():
			for i := range value.List().Len() {
				if v, changed := redactValue(field, value.List().Get(i), secret); changed {
					value.List().Set(i, v)
				}
			}
		default:
			if v, changed := redactValue(field, value, secret); changed {
				m.Set(field, v)
			}
		}
		return true
	})
}

func redactMap(field protoreflect.FieldDescriptor, entries protoreflect.Map, secret bool) {
	entries.Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
		if v, changed := redactValue(field, value, secret || namesSecret(key.String())); changed {
			entries.Set(key, v)
		}
		return true
	})
}

// redactValue returns what to show in place of a single value, if anything. A
// message is redacted in place.
func redactValue(field protoreflect.FieldDescriptor, value protoreflect.Value, secret bool) (_ protoreflect.Value, changed bool) {
	switch field.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		redactMessage(value.Message())
	case protoreflect.StringKind:
		if secret && value.String() != "" {
			return protoreflect.ValueOfString(hidden), true
		}
		if u, err := url.Parse(value.String()); err == nil && u.User != nil && u.Host != "" {
			if _, has := u.User.Password(); has {
				u.User = url.UserPassword(u.User.Username(), "redacted")
				return protoreflect.ValueOfString(u.String()), true
			}
		}
	case protoreflect.BytesKind:
		if secret {
			return protoreflect.ValueOfBytes([]byte(hidden)), true
		}
	}
	return value, false
}

func isSecret(field protoreflect.FieldDescriptor) bool {
	if options, ok := field.Options().(*descriptorpb.FieldOptions); ok && options.GetDebugRedact() {
		return true
	}
	return namesSecret(string(field.Name()))
}

func namesSecret(name string) bool {
	return secretName.MatchString(name) && !fileName.MatchString(name)
}
