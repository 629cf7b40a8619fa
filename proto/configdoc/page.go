package main

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// page is the page as far as it is written.
type page struct {
	text strings.Builder
	// has are the sections of blocks that are written, by their paths: a file may hold
	// what another one holds too.
	has map[string]protoreflect.FullName
}

func (p *page) heading(level int, title string) {
	fmt.Fprintf(&p.text, "\n%s %s\n", strings.Repeat("#", level), title)
}

func (p *page) paragraph(text string) {
	if text != "" {
		fmt.Fprintf(&p.text, "\n%s\n", text)
	}
}

// fields writes the table of a message's fields, and then a section for each
// block among them. path is where in the file the message stands.
func (p *page) fields(message *protogen.Message, path string) {
	if len(message.Fields) == 0 {
		return
	}
	for _, oneof := range message.Oneofs {
		if !oneof.Desc.IsSynthetic() {
			p.paragraph(marked(oneLine(string(oneof.Comments.Leading))))
		}
	}
	p.text.WriteString("\n| field | takes | default | what it is |\n|---|---|---|---|\n")
	for _, field := range message.Fields {
		rest, standard := splitDefault(oneLine(string(field.Comments.Leading)))
		fmt.Fprintf(&p.text, "| `%s` | %s | %s | %s |\n",
			field.Desc.Name(), cell(takes(field, path)), cell(whenLeftOut(field, standard)), cell(rest))
	}
	for _, field := range message.Fields {
		block := blockOf(field)
		if block == nil {
			continue
		}
		at := pathOf(path, field)
		if p.has[at] == block.Desc.FullName() {
			continue
		}
		p.has[at] = block.Desc.FullName()
		p.heading(3, at)
		p.paragraph(prose(block.Comments.Leading, block.Desc.Name()))
		p.fields(block, at)
	}
}

// blockOf returns the message that a field holds, one or many of it; nil where
// it holds no fields of its own.
func blockOf(field *protogen.Field) *protogen.Message {
	message := field.Message
	if message != nil && field.Desc.IsMap() {
		message = message.Fields[1].Message
	}
	if message == nil || message.Desc.FullName() == duration || message.Desc.FullName() == timestamp {
		return nil
	}
	return message
}

// pathOf is where a field stands in the file: "registry.consul",
// "services.NAME.endpoints[]".
func pathOf(path string, field *protogen.Field) string {
	if path != "" {
		path += "."
	}
	path += string(field.Desc.Name())
	switch {
	case field.Desc.IsMap():
		path += ".NAME"
	case field.Desc.IsList():
		path += "[]"
	}
	return path
}

// prose turns a message's comment into paragraphs. The name of the message,
// which it begins with, means nothing to who writes YAML.
func prose(comment protogen.Comments, name protoreflect.Name) string {
	var paragraphs []string
	for paragraph := range strings.SplitSeq(strings.TrimSpace(string(comment)), "\n\n") {
		paragraphs = append(paragraphs, oneLine(paragraph))
	}
	if rest, ok := strings.CutPrefix(paragraphs[0], string(name)+" "); ok {
		for _, verb := range []string{"is ", "are ", "says ", "holds "} {
			rest = strings.TrimPrefix(rest, verb)
		}
		paragraphs[0] = sentence(rest)
	}
	return marked(strings.Join(paragraphs, "\n\n"))
}

func sentence(text string) string {
	for i, first := range text {
		return text[:i] + string(unicode.ToUpper(first)) + text[i+len(string(first)):]
	}
	return text
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

var quoted = regexp.MustCompile(`"([^"]+)"`)

// marked shows what a comment has in quotes as what it is: something to be
// written so.
func marked(text string) string {
	return quoted.ReplaceAllString(strings.ReplaceAll(text, `""`, "empty"), "`$1`")
}

// cell keeps text from ending a table's cell.
func cell(text string) string { return strings.ReplaceAll(marked(text), "|", `\|`) }

// anchor is what a heading is called in links.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}
