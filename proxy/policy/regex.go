package policy

import "github.com/pillion-proxy/pillion/proxy/internal/regex"

// anotherValue is what each value of a key beyond the first counts for beside its
// bytes, where a regular expression is tried on several.
const anotherValue = 16

// compileRegex compiles the condition's text, as an expression for the whole value.
func (p *problems) compileRegex(field string, c *condition) {
	r, err := regex.Compile(c.text)
	if err != nil {
		p.addf(field, "%v, or use prefix, suffix or range", err)
		return
	}
	c.regex, c.longest = r, r.Longest()
}

// compilePathRegex compiles an expression for the whole path; "": there is none.
func (p *problems) compilePathRegex(field, text string) []condition {
	if text == "" {
		return nil
	}
	c := condition{key: newKey(":path"), test: testPath, text: text}
	p.compileRegex(field, &c)
	return []condition{c}
}

// matchesRegex says whether the whole value matches. One that is too long matches
// nothing.
func (c *condition) matchesRegex(value string) bool {
	matches, _ := c.regex.Match(value)
	return matches
}
