package access

import (
	"strings"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/internal/regex"
	"github.com/pillion-proxy/pillion/registry"
)

// header is a condition of an intention on a header.
type header struct {
	name       string
	test       headerTest
	text       string // in lower case where case is ignored
	regex      *regex.Regex
	ignoreCase bool
	invert     bool
}

type headerTest uint8

const (
	headerPresent headerTest = iota
	headerExact
	headerRegex
	headerPrefix
	headerSuffix
	headerContains
)

// compileHeader compiles a condition. It is not ok where nothing can be said of what it
// asks for. Which text counts where there are several is as in Consul.
func compileHeader(in *registry.IntentionHeader) (h header, ok bool) {
	h = header{name: strings.ToLower(in.Name), ignoreCase: in.IgnoreCase, invert: in.Invert}
	if h.name == "host" {
		h.name = ":authority" // what HTTP/2 has in its place
	}
	switch {
	case in.Exact != "":
		h.test, h.text = headerExact, in.Exact
	case in.Regex != "":
		var err error
		h.test, h.ignoreCase = headerRegex, false
		h.regex, err = regex.Compile(in.Regex)
		return h, err == nil
	case in.Prefix != "":
		h.test, h.text = headerPrefix, in.Prefix
	case in.Suffix != "":
		h.test, h.text = headerSuffix, in.Suffix
	case in.Contains != "":
		h.test, h.text = headerContains, in.Contains
	case !in.Present:
		return h, false
	}
	return h, true
}

// holds says whether the condition holds for a request; unsure is what it says where
// that cannot be told. Each of several values is looked at by itself, and one that meets
// the condition is enough: joined, one would hide another, which the app may well look
// at (Envoy's GHSA-ghc4-35x6-crw5). A header that is missing meets none, also where it is
// turned around, but for that which asks whether it is there (Envoy's HeaderMatcher).
func (h *header) holds(fields []hpack.Field, unsure bool) bool {
	there := false
	for i := range fields {
		if fields[i].Name != h.name {
			continue
		}
		there = true
		meets, told := h.meets(fields[i].Value)
		if !told {
			return unsure
		}
		if meets {
			return !h.invert
		}
	}
	if h.test == headerPresent {
		return h.invert
	}
	return there && h.invert
}

// meets says whether a value meets the condition before it is turned around; told is
// false where that cannot be told.
func (h *header) meets(value string) (meets, told bool) {
	n := len(h.text)
	switch h.test {
	case headerPresent:
		return true, true
	case headerExact:
		return h.equal(value), true
	case headerRegex:
		return h.regex.Match(value)
	case headerPrefix:
		return len(value) >= n && h.equal(value[:n]), true
	case headerSuffix:
		return len(value) >= n && h.equal(value[len(value)-n:]), true
	case headerContains:
		return h.contained(value), true
	}
	return false, true
}

func (h *header) contained(value string) bool {
	if !h.ignoreCase {
		return strings.Contains(value, h.text)
	}
	for i := 0; i+len(h.text) <= len(value); i++ {
		if h.equal(value[i : i+len(h.text)]) {
			return true
		}
	}
	return false
}

// equal compares a text with the condition's. ASCII alone has cases here: what else is
// in a header is bytes.
func (h *header) equal(text string) bool {
	if !h.ignoreCase || len(text) != len(h.text) {
		return text == h.text
	}
	for i := range len(text) {
		if lower(text[i]) != lower(h.text[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
