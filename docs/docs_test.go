// Package docs_test holds the documentation to what is true: its links, its
// examples, its commands, and the names that it uses.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

// page is a page of the documentation.
type page struct {
	path string // from here
	// text is all of it, prose what stands outside of blocks.
	text, prose string
	blocks      []block
}

// block is a fenced block of code.
type block struct {
	language string
	lines    []string
}

// page returns the page at a path.
func readPage(t *testing.T, path string) page {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p := page{path: path, text: string(data)}
	var prose strings.Builder
	var open *block
	for line := range strings.Lines(p.text) {
		language, fence := strings.CutPrefix(strings.TrimRight(line, "\n"), "```")
		switch {
		case fence && open == nil:
			open = &block{language: language}
		case fence:
			p.blocks = append(p.blocks, *open)
			open = nil
		case open != nil:
			open.lines = append(open.lines, strings.TrimRight(line, "\n"))
		default:
			prose.WriteString(line)
		}
	}
	if open != nil {
		t.Fatalf("%s: a block of code has no end", path)
	}
	p.prose = prose.String()
	return p
}

// pages returns all pages.
func pages(t *testing.T) []page {
	t.Helper()
	paths, err := filepath.Glob("*.md")
	if err != nil || len(paths) < 5 {
		t.Fatalf("only %d pages: %v", len(paths), err)
	}
	var all []page
	for _, path := range append(paths, "../README.md", "../SECURITY.md") {
		all = append(all, readPage(t, path))
	}
	return all
}

// Each block says what it is: "sh" is run by TestCommands, "yaml" is checked by
// TestConfigurations, "console" is shell that needs more than there is here.
func TestBlocksSayWhatTheyAre(t *testing.T) {
	t.Parallel()
	known := []string{"sh", "console", "yaml", "text", "json", "hcl", "ini", "promql"}
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			if !slices.Contains(known, b.language) {
				t.Errorf("%s: a block is %q, which is none of %v:\n%s", p.path, b.language, known, strings.Join(b.lines, "\n"))
			}
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+?) *$`)
)

// anchor is what a heading is called in links, as GitHub has it.
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

func TestLinks(t *testing.T) {
	t.Parallel()
	for _, p := range pages(t) {
		for _, found := range link.FindAllStringSubmatch(p.prose, -1) {
			target, fragment, _ := strings.Cut(found[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			to := p
			if target != "" {
				path := filepath.Join(filepath.Dir(p.path), target)
				if _, err := os.Stat(path); err != nil {
					t.Errorf("%s: there is no %s", p.path, found[1])
					continue
				}
				if fragment == "" {
					continue
				}
				to = readPage(t, path)
			}
			there := slices.ContainsFunc(heading.FindAllStringSubmatch(to.prose, -1), func(h []string) bool { return anchor(h[1]) == fragment })
			if !there {
				t.Errorf("%s: %s has no heading for #%s", p.path, to.path, fragment)
			}
		}
	}
}

// sourcePath is a file or folder of the project, in prose.
var sourcePath = regexp.MustCompile("`((?:proxy|registry|server|cmd|proto|interop|docs)(?:/[A-Za-z0-9_.-]+)+)`")

func TestSourcesAreWhereThePagesSay(t *testing.T) {
	t.Parallel()
	checked := 0
	for _, p := range pages(t) {
		for _, found := range sourcePath.FindAllStringSubmatch(p.prose, -1) {
			checked++
			if _, err := os.Stat(filepath.Join("..", found[1])); err != nil {
				t.Errorf("%s: there is no %s", p.path, found[1])
			}
		}
	}
	if checked < 40 {
		t.Errorf("only %d paths were found: has the form of the pages changed?", checked)
	}
}

// Each YAML block is a whole file that is valid, and says which.
func TestConfigurations(t *testing.T) {
	t.Parallel()
	checked := 0
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			if b.language != "yaml" {
				continue
			}
			checked++
			path := filepath.Join(t.TempDir(), "example.yaml")
			if err := os.WriteFile(path, []byte(strings.Join(b.lines, "\n")+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			var err error
			switch b.lines[0] {
			case "# pillion.yaml":
				_, err = configyaml.ReadBootstrap(path)
			case "# mesh.yaml":
				var mesh *configv1.MeshFile
				mesh, err = configyaml.ReadMesh(path, configyaml.DefaultMeshSize)
				_, refused := policy.Compile(mesh.GetPolicies(), nil, policy.Env{})
				for _, refusal := range refused {
					t.Errorf("%s: %v", p.path, refusal)
				}
			case "# policies.yaml":
				_, err = configyaml.ReadPolicyFile(path, configyaml.DefaultMeshSize)
			case "# documents.yaml":
				_, err = configyaml.ReadDocuments(path, configyaml.DefaultMeshSize)
			case "# policy_test.yaml":
				_, err = configyaml.ReadPolicyTest(path)
			default:
				t.Errorf("%s: a block begins %q, which names none of the files that Pillion reads", p.path, b.lines[0])
			}
			if err != nil {
				t.Errorf("%s: %v\n%s", p.path, err, strings.Join(b.lines, "\n"))
			}
		}
	}
	if checked < 5 {
		t.Errorf("only %d examples were found", checked)
	}
}

// fieldPath is a field of a file that people write in prose, perhaps with a
// value: "outbound.listen", "service.health_check.disabled: true".
var fieldPath = regexp.MustCompile("`([a-z0-9_]+(?:\\.[a-z0-9_]+)+)(?::[^`]*)?`")

func TestFieldsExist(t *testing.T) {
	t.Parallel()
	roots := []protoreflect.MessageDescriptor{
		(&configv1.Bootstrap{}).ProtoReflect().Descriptor(), (&configv1.MeshFile{}).ProtoReflect().Descriptor(),
		(&configv1.Documents{}).ProtoReflect().Descriptor(),
	}
	checked := 0
	for _, p := range pages(t) {
		for _, found := range fieldPath.FindAllStringSubmatch(p.prose, -1) {
			names := strings.Split(found[1], ".")
			in := func(root protoreflect.MessageDescriptor) bool { return hasField(root, names) }
			starts := func(root protoreflect.MessageDescriptor) bool { return hasField(root, names[:1]) }
			if !slices.ContainsFunc(roots, starts) {
				continue // another name with dots
			}
			checked++
			if !slices.ContainsFunc(roots, in) {
				t.Errorf("%s: there is no field %q", p.path, found[1])
			}
		}
	}
	if checked < 40 {
		t.Errorf("only %d fields were found: has the form of the pages changed?", checked)
	}
}

// hasField says whether a message has a field at the end of a path.
func hasField(message protoreflect.MessageDescriptor, path []string) bool {
	for _, name := range path {
		if message == nil || message.Fields().ByName(protoreflect.Name(name)) == nil {
			return false
		}
		message = message.Fields().ByName(protoreflect.Name(name)).Message()
	}
	return true
}

// section is what stands under a heading, up to the next one of its level.
func section(t *testing.T, p page, title string) string {
	t.Helper()
	_, rest, ok := strings.Cut(p.text, "\n## "+title+"\n")
	if !ok {
		t.Fatalf("%s has no section %q", p.path, title)
	}
	text, _, _ := strings.Cut(rest, "\n## ")
	return text
}

// rows returns the rows of the tables in a text, by cells, the head and the
// line below it left out.
func rows(text string) (rows [][]string) {
	inTable := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		cells, ok := strings.CutPrefix(line, "|")
		switch {
		case !ok:
			inTable = false
		case strings.HasPrefix(cells, "---"):
			inTable = true
		case inTable:
			var row []string
			cells = strings.ReplaceAll(strings.TrimSuffix(cells, "|"), `\|`, "\x00")
			for cell := range strings.SplitSeq(cells, "|") {
				row = append(row, strings.ReplaceAll(strings.TrimSpace(cell), "\x00", "|"))
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// ticked returns what a cell has between backquotes.
func ticked(cell string) (names []string) {
	for i, part := range strings.Split(cell, "`") {
		if i%2 == 1 {
			names = append(names, part)
		}
	}
	return names
}
