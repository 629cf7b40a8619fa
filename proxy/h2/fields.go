package h2

import "github.com/pillion-proxy/pillion/proxy/h2/hpack"

// harmless says of a field that enters the decoder's table that it need not be looked
// at again: there is nothing wrong with it, or with its value where it is a
// pseudo-header field, and it tells the engine nothing.
func harmless(name, value string) bool {
	if name != "" && name[0] == ':' {
		return validValue(value)
	}
	if name == "host" { // there must be only one
		return false
	}
	alone := Head{Regular: []hpack.Field{{Name: name, Value: value}}}
	length, bad := alone.checkRegular()
	return bad == "" && length < 0
}

// nameChars are the characters of a field name: RFC 9110's tokens without upper
// case.
var nameChars = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c] = true
	}
	for _, c := range "!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

func validName(s string) bool {
	for i := range len(s) {
		if !nameChars[s[i]] {
			return false
		}
	}
	return len(s) > 0
}

// Words of eight equal bytes, to look at eight characters at once.
const (
	ones  = 0x0101010101010101
	highs = 0x80 * ones
)

// validValue refuses what could split a header section elsewhere, and control
// characters. White space at the ends, which RFC 9113 forbids too, does no harm
// and is let through, as other proxies do.
func validValue(s string) bool {
	for ; len(s) >= 8; s = s[8:] {
		w := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		// Not 0 where some byte is below ' ' or is DEL; a tab is below as well.
		below, del := w-' '*ones, w^0x7f*ones
		if (below&^w|(del-ones)&^del)&highs != 0 && !validChars(s[:8]) {
			return false
		}
	}
	return validChars(s)
}

func validChars(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
