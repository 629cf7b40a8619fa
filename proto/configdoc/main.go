// Command configdoc writes docs/configuration.md from the comments, types and
// rules of the configuration's schema. It is a protoc plugin, which `make
// generate` runs, so the page cannot say anything else than the schema does.
package main

import (
	_ "embed"
	"fmt"

	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/pluginpb"
)

// preface is what stands above the fields: what no schema says.
//
//go:embed preface.md
var preface string

const pageName = "configuration.md"

func main() {
	protogen.Options{}.Run(func(plugin *protogen.Plugin) error {
		plugin.SupportedFeatures = uint64(pluginpb.CodeGeneratorResponse_FEATURE_PROTO3_OPTIONAL)
		text, err := write(plugin.Files)
		if err != nil {
			return err
		}
		_, err = plugin.NewGeneratedFile(pageName, "").Write([]byte(text))
		return err
	})
}

// files are those that people write, with the message that each is.
var files = []struct {
	name    string
	message protoreflect.FullName
}{
	{"pillion.yaml", "pillion.config.v1.Bootstrap"},
	{"mesh.yaml", "pillion.config.v1.MeshFile"},
	{"documents.yaml", "pillion.config.v1.Documents"},
}

// write returns the whole page.
func write(schema []*protogen.File) (string, error) {
	messages := map[protoreflect.FullName]*protogen.Message{}
	for _, file := range schema {
		for _, message := range file.Messages {
			messages[message.Desc.FullName()] = message
		}
	}
	p := page{has: map[string]protoreflect.FullName{}}
	p.text.WriteString(preface)
	for _, file := range files {
		message := messages[file.message]
		if message == nil {
			return "", fmt.Errorf("the schema has no message %s: is it among the files to generate from?", file.message)
		}
		p.heading(2, file.name)
		p.paragraph(prose(message.Comments.Leading, message.Desc.Name()))
		p.fields(message, "")
	}
	return p.text.String(), nil
}
