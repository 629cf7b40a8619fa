package policy

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// why says in words why a request fails the condition.
func (c *condition) why(fields []hpack.Field) string {
	actual := c.describeValue(fields)
	if c.invert {
		return fmt.Sprintf("no %s is wanted, but %s", c.describe(), actual)
	}
	return fmt.Sprintf("%s is wanted, but %s", c.describe(), actual)
}

// describe writes the condition as people would, before it is turned around.
func (c *condition) describe() string {
	what := "metadata " + quoted(c.key.text)
	if c.cookie {
		what = "cookie " + quoted(c.key.text)
	}
	switch c.test {
	case testPath:
		return fmt.Sprintf("a path that matches %q", c.text)
	case testExact:
		if c.isBytes {
			return fmt.Sprintf("%s of the bytes %s", what, base64.StdEncoding.EncodeToString([]byte(c.text)))
		}
		return fmt.Sprintf("%s of %q", what, c.text)
	case testPrefix:
		return fmt.Sprintf("%s that begins with %q", what, c.text)
	case testSuffix:
		return fmt.Sprintf("%s that ends with %q", what, c.text)
	case testRegex:
		return fmt.Sprintf("%s that matches %q", what, c.text)
	case testRange:
		return fmt.Sprintf("%s from %d up to and without %d", what, c.start, c.end)
	}
	if c.present {
		return what
	}
	return "no " + what
}

// shownValue is how much of a value people are shown.
const shownValue = 128

// describeValue says what a request has there.
func (c *condition) describeValue(fields []hpack.Field) string {
	value, found := "", false
	if c.cookie {
		value, found = (&RPC{Fields: fields}).cookie(c.key.text)
	} else {
		var count int
		if value, count = one(fields, c.key.text); count > 1 {
			value = string(appendJoined(nil, fields, c.key.text))
		}
		found = count > 0
	}
	switch {
	case !found:
		return "the RPC has none"
	case c.test == testRegex && c.tooLong(value):
		return fmt.Sprintf("the RPC has %d bytes there, and this regular expression is tried on %d at most", len(value), c.longest)
	case c.binary:
		return "the RPC has " + shorten(value) + " (base64)"
	}
	return "the RPC has " + quoted(shorten(value))
}

// tooLong says whether the regex is not tried on all of the key's values, as they are
// on the wire.
func (c *condition) tooLong(value string) bool {
	if !c.binary {
		return len(value) > c.longest
	}
	tried := 0
	for text := range strings.SplitSeq(value, ",") {
		if decoded, ok := decodeBinary(nil, text); ok {
			if tried += len(decoded); tried > c.longest {
				return true
			}
			tried += anotherValue
		}
	}
	return false
}

func shorten(s string) string {
	if len(s) > shownValue {
		return strings.ToValidUTF8(s[:shownValue], "") + "…"
	}
	return s
}
