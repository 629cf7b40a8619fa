// Package regex bounds what a regular expression costs on text that a caller chooses:
// each byte may cost as much as the expression has instructions, and one that is looked
// at for each RPC must be done within a millisecond. It says nothing of what the text
// is.
package regex

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

const (
	// maxInstructions is how many instructions an expression may have.
	maxInstructions = 512
	// steps bounds the bytes of a text times the instructions.
	steps = 64 << 10
	// longest is how many bytes a text may have whatever the expression.
	longest = 4 << 10
)

// Regex is an expression for whole texts, in RE2's syntax.
type Regex struct {
	whole   *regexp.Regexp
	front   string // how all begin that it matches
	longest int
}

// Compile compiles an expression. The error says what to write instead.
func Compile(text string) (*Regex, error) {
	_, err := syntax.Parse(text, syntax.Perl) // alone: "a)|(b" is none
	var whole *regexp.Regexp
	if err == nil {
		whole, err = regexp.Compile(`\A(?:` + text + `)\z`)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: write it in RE2's syntax", err)
	}
	n := instructions(whole.String())
	if n > maxInstructions {
		return nil, fmt.Errorf("takes %d instructions, and there may be %d at most: repeat less", n, maxInstructions)
	}
	r := &Regex{whole: whole, longest: min(longest, steps/n)}
	r.front, _ = whole.LiteralPrefix()
	return r, nil
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

// Match says whether a whole text matches. It is not told where the text is too long to
// be looked at. Most texts that do not match are found out by how they begin.
func (r *Regex) Match(text string) (matches, told bool) {
	if !strings.HasPrefix(text, r.front) {
		return false, true
	}
	if len(text) > r.longest {
		return false, false
	}
	return r.whole.MatchString(text), true
}

// Longest is how many bytes a text may have to be looked at.
func (r *Regex) Longest() int { return r.longest }
