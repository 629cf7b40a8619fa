package documents

import (
	"fmt"
	"strings"

	"buf.build/go/protoyaml"
	udiff "github.com/aymanbagabas/go-udiff"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// YAML writes documents as a file that can be applied again.
func YAML(d *configv1.Documents) (string, error) {
	text, err := protoyaml.MarshalOptions{UseProtoNames: true, Indent: 2}.Marshal(d)
	if err == nil {
		again, err := configyaml.ParseDocuments("", text)
		if err == nil && proto.Equal(again.Written, d) {
			return string(text), nil
		}
	}
	// The YAML library does not write all texts in a form that it reads: JSON is YAML too.
	text, err = protojson.MarshalOptions{UseProtoNames: true, Multiline: true, Indent: "  "}.Marshal(d)
	return string(text) + "\n", err
}

// Text writes what one document says as YAML, for people; "" for one that was deleted.
func Text(d *controlv1.Document) string {
	body := Body(d)
	if body == nil {
		return ""
	}
	text, err := protoyaml.MarshalOptions{UseProtoNames: true, Indent: 2}.Marshal(body)
	if err != nil {
		return "cannot be shown: " + oneLine(err) + "\n"
	}
	return printableLines(string(text))
}

// printableLines is [Printable] for a text of several lines, whose blanks count.
func printableLines(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' {
			return r
		}
		return printable(r)
	}, strings.ToValidUTF8(text, "�"))
}

// Diff writes what a change changes, as a unified diff of YAML.
func (c *Change) Diff() string {
	from, to := "nothing", "nothing"
	var before *controlv1.Document
	if c.Before != nil {
		before, from = c.Before.Document, c.ID.String()+" as it is"
	}
	if c.After != nil {
		to = c.ID.String() + " as it is to be"
	}
	return udiff.Unified(from, to, Text(before), Text(c.After))
}

// Diff writes what differs between two revisions, as a unified diff of YAML; "" where
// nothing does.
func Diff(before, after *controlv1.Document) string {
	name := func(d *controlv1.Document) string {
		if Body(d) == nil {
			return "nothing"
		}
		return fmt.Sprintf("revision %d", d.GetRevision())
	}
	return udiff.Unified(name(before), name(after), Text(before), Text(after))
}
