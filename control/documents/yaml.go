package documents

import (
	"bytes"
	"encoding/json"
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
	if err == nil && readsAs(text, d) {
		return string(text), nil
	}
	// The YAML library does not write all texts in a form that it reads: JSON is YAML too.
	if text, err = protojson.Marshal(d); err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil {
		return "", err
	}
	return escaped(b.String()) + "\n", nil
}

func readsAs(text []byte, d *configv1.Documents) bool {
	again, err := configyaml.ParseDocuments("", text)
	return err == nil && proto.Equal(again.Written, d)
}

// escaped is JSON without characters that YAML takes for line breaks, or does not take.
// They stand in texts alone.
func escaped(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfeff || r == 0xfffe || r == 0xffff {
			fmt.Fprintf(&b, "\\u%04x", r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
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
