package configyaml

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxProblems bounds how many problems of one file are reported, so that a
// large file that is wrong throughout stays readable.
const maxProblems = 50

// maxLocated bounds how many problems are looked up in the file, which takes
// time that grows with the file, in order to show the first of them.
const maxLocated = 4 * maxProblems

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	// File is the path as it was given; empty where no file is to blame.
	File string
	// Line and Column count from 1, columns in characters; 0 where no file is
	// to blame.
	Line, Column int
	// Origin says what set the field instead of a file, such as "--outbound".
	Origin string
	// Field is the path of the field, such as
	// `services["greeter"].endpoints[0].address`; empty for the whole file.
	Field string
	// Message says what is wrong and what to do, on one line.
	Message string
}

// Error returns "file:line:column: field: message" on one line.
func (p Problem) Error() string {
	var b strings.Builder
	switch {
	case p.Origin != "":
		b.WriteString(p.Origin + ": ")
	case p.File != "":
		fmt.Fprintf(&b, "%s:%d:%d: ", p.File, p.Line, p.Column)
	}
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Problems are all that is wrong with a configuration, in the file's order. It
// is never empty when returned as an error.
type Problems []Problem

// Error returns one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, 0, len(p))
	for _, problem := range p {
		lines = append(lines, problem.Error())
	}
	return strings.Join(lines, "\n")
}

// finding is a problem before it is known where in the file its field is.
type finding struct {
	field   string
	message string
	// line and column are 0 where only the field says the place.
	line, column int
	// missing says that the field is not there, not that it is wrong.
	missing bool
}

// findings collects what a check finds.
type findings []finding

func (f *findings) addf(field, format string, args ...any) {
	*f = append(*f, finding{field: field, message: fmt.Sprintf(format, args...)})
}

// report turns what was found into the error that a person sees. origins says
// by field path what was not set by the document.
func (d *document) report(found findings, origins map[string]string) Problems {
	total := len(found)
	found = found[:min(total, maxLocated)]
	problems := make(Problems, 0, len(found))
	for _, f := range found {
		p := Problem{Field: f.field, Message: oneLine(f.message), Origin: originOf(f.field, origins)}
		if p.Origin == "" && d.path != "" {
			p.File, p.Line, p.Column = d.path, f.line, f.column
			if p.Line == 0 {
				p.Line, p.Column = d.locate(f.field)
			}
		}
		problems = append(problems, p)
	}
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	problems = slices.Compact(problems)
	if more := total - maxProblems; len(problems) > maxProblems {
		last := problems[maxProblems]
		last.Field, last.Message = "", fmt.Sprintf("and %d more problems from here on", more)
		problems = append(problems[:maxProblems], last)
	}
	return problems
}

// originOf returns the origin of the field, or of the closest message or list
// around it that has one.
func originOf(field string, origins map[string]string) string {
	var closest, origin string
	for set, from := range origins {
		rest, ok := strings.CutPrefix(field, set)
		if ok && (rest == "" || rest[0] == '.' || rest[0] == '[') && len(set) >= len(closest) {
			closest, origin = set, from
		}
	}
	return origin
}

// oneLine makes sure that what a file or a library put into a message cannot
// break the line.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, s)
}
