package policy

import "strings"

var cookieKey = newKey("cookie")

// cookie returns the value of the first cookie of a name, which has neither blanks nor
// "=" nor ";". HTTP/2 allows the header to be split into several fields (RFC 9113
// section 8.2.3).
func (r *RPC) cookie(name string) (value string, found bool) {
	if name == "" {
		return "", false
	}
	for i := r.find(&cookieKey); i >= 0; i = r.next(&cookieKey, i) {
		if value, found = cookieIn(r.Fields[i].Value, name); found {
			return value, true
		}
	}
	return "", false
}

// cookieIn is cookie in one header. Of pairs with other names only the ends are looked
// for.
func cookieIn(header, name string) (value string, found bool) {
	for {
		for header != "" && isBlank(header[0]) {
			header = header[1:]
		}
		if len(header) > len(name) && header[0] == name[0] && header[:len(name)] == name {
			rest := header[len(name):]
			for rest != "" && isBlank(rest[0]) {
				rest = rest[1:]
			}
			if rest != "" && rest[0] == '=' {
				rest = rest[1:]
				if end := strings.IndexByte(rest, ';'); end >= 0 {
					rest = rest[:end]
				}
				return cookiePair{written: rest}.value(), true
			}
		}
		end := strings.IndexByte(header, ';')
		if end < 0 {
			return "", false
		}
		header = header[end+1:]
	}
}

// trimBlanks removes the blanks around a text. Package strings' Trim makes a set of
// them each time.
func trimBlanks(s string) string {
	for s != "" && isBlank(s[0]) {
		s = s[1:]
	}
	for s != "" && isBlank(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// cookiePair is one cookie of a header. Most names are not what is looked for, so the
// value is as it was written until it is asked for.
type cookiePair struct {
	name    string // "": it is no pair
	written string
}

// value returns the value. Quotes around it are no part of it.
func (p cookiePair) value() string {
	value := trimBlanks(p.written)
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		return value[1 : len(value)-1]
	}
	return value
}

// nextCookie takes the first pair off a cookie header (RFC 6265 section 4.2.1). What
// has no "=" is no pair.
func nextCookie(header string) (pair cookiePair, rest string) {
	text := header
	if end := strings.IndexByte(header, ';'); end >= 0 {
		text, rest = header[:end], header[end+1:]
	}
	if equals := strings.IndexByte(text, '='); equals >= 0 {
		pair = cookiePair{trimBlanks(text[:equals]), text[equals+1:]}
	}
	return pair, rest
}
