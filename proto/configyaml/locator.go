package configyaml

import (
	"fmt"
	"sync"
	"weak"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// Locator says where in a mesh file something of its policies is, for what is found once
// all of them are looked at together. It may be used by many at once.
type Locator struct {
	path string
	data []byte

	mu sync.Mutex
	// root is kept as long as it is in use: it takes much more memory than the file.
	root weak.Pointer[yaml.Node]
}

// NewLocator returns a locator of a file with this content.
func NewLocator(path string, data []byte) *Locator { return &Locator{path: path, data: data} }

func (l *Locator) parsed() *yaml.Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	if root := l.root.Value(); root != nil {
		return root
	}
	root, _ := parseYAML(l.data)
	l.root = weak.Make(root)
	return root
}

// Policy returns "file:line:column: field" of a field of a policy, given by its place in
// the file, from 0 on. below is the path below the policy; "" for the policy.
func (l *Locator) Policy(index int, below string) string {
	field := fmt.Sprintf("%s[%d]", policiesKey, index)
	if below != "" {
		field += "." + below
	}
	return l.field(&configv1.MeshFile{}, field)
}

// field returns "file:line:column: field" of a field of the message that the file holds.
func (l *Locator) field(holds proto.Message, field string) string {
	doc := &document{path: l.path, root: l.parsed(), desc: holds.ProtoReflect().Descriptor()}
	line, column := doc.locate(field)
	return fmt.Sprintf("%s:%d:%d: %s", l.path, line, column, field)
}

// Places returns "file:line:column" of each policy, in the file's order.
func (l *Locator) Places() []string {
	items := policyItems(l.parsed())
	places := make([]string, len(items))
	for i, item := range items {
		places[i] = fmt.Sprintf("%s:%d:%d", l.path, item.Line, item.Column)
	}
	return places
}
