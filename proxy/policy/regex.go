package policy

import (
	"regexp"
	"regexp/syntax"
	"strings"
)

// Callers choose the values, and each byte of one may cost as much as the expression
// has instructions. An expression that is used on all RPCs must be done within a
// millisecond, whatever the value.
const (
	// maxInstructions is how many instructions an expression may have.
	maxInstructions = 512
	// regexSteps bounds the bytes of a value times the instructions.
	regexSteps = 64 << 10
	// longestValue is how many bytes a value may have whatever the expression.
	longestValue = 4 << 10
	// anotherValue is what each value of a key beyond the first counts for beside its
	// bytes.
	anotherValue = 16
)

// compileRegex compiles the condition's text, as an expression for the whole value.
func (p *problems) compileRegex(field string, c *condition) {
	_, err := syntax.Parse(c.text, syntax.Perl) // alone: "a)|(b" is none
	var whole *regexp.Regexp
	if err == nil {
		whole, err = regexp.Compile(`\A(?:` + c.text + `)\z`)
	}
	if err != nil {
		p.addf(field, "%v: write it in RE2's syntax", err)
		return
	}
	n := instructions(whole.String())
	if n > maxInstructions {
		p.addf(field, "takes %d instructions, and there may be %d at most: repeat less, or use prefix, suffix or range", n, maxInstructions)
		return
	}
	c.regex, c.longest = whole, min(longestValue, regexSteps/n)
	c.front, _ = whole.LiteralPrefix()
}

// instructions is how many an expression takes, which compiles.
func instructions(text string) int {
	tree, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return maxInstructions + 1
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return maxInstructions + 1
	}
	return len(program.Inst)
}

// matchesRegex says whether the whole value matches. Most that do not are found out by
// how they begin. One that is too long matches nothing.
func (c *condition) matchesRegex(value string) bool {
	return len(value) <= c.longest && strings.HasPrefix(value, c.front) && c.regex.MatchString(value)
}
