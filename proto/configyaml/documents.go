package configyaml

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// Generated are the beginnings of the names of those policies that are made of canaries
// and experiments. No other policy that is applied may be called so.
const (
	GeneratedOfCanaries    = "canary."
	GeneratedOfExperiments = "experiment."
)

// DocumentsFile is a file that holds documents for the mesh.
type DocumentsFile struct {
	Path string
	// Written are the documents as the file has them, Effective with their defaults
	// filled in, in the same order.
	Written, Effective *configv1.Documents
	in                 *Locator
}

// ReadDocuments reads and checks the documents of a file, of limit bytes at most. The
// error is a [Problems] where the content is to blame.
func ReadDocuments(path string, limit int64) (*DocumentsFile, error) {
	data, err := readFile(path, limit)
	if err != nil {
		return nil, err
	}
	return ParseDocuments(path, data)
}

// ParseDocuments is [ReadDocuments] for content that was read already; path is only what
// errors call it.
func ParseDocuments(path string, data []byte) (*DocumentsFile, error) {
	written := &configv1.Documents{}
	doc, found := parse(path, data, written)
	if len(found) > 0 {
		return nil, doc.report(alsoRules(found, written), nil)
	}
	effective := EffectiveDocuments(written)
	found = checkRules(effective)
	if len(found) == 0 {
		found = checkDocuments(effective)
	}
	if len(found) > 0 {
		return nil, doc.report(found, nil)
	}
	return &DocumentsFile{Path: path, Written: written, Effective: effective, in: NewLocator(path, data)}, nil
}

// Locate says where in the file a field is: "file:line:column: field", for a field such
// as "canaries[0].steps".
func (f *DocumentsFile) Locate(field string) string {
	return f.in.field((&configv1.Documents{}), field)
}

// EffectiveDocuments returns a copy of documents with every default filled in.
func EffectiveDocuments(written *configv1.Documents) *configv1.Documents {
	d := proto.CloneOf(written)
	for _, p := range d.GetPolicies() {
		effectivePolicy(p)
	}
	for _, c := range d.GetCanaries() {
		effectiveCanary(c)
	}
	for _, e := range d.GetExperiments() {
		effectiveExperiment(e)
	}
	return d
}

// EffectivePolicy returns a copy of a policy with every default filled in. It changes
// nothing that is set, and needs no valid policy.
func EffectivePolicy(written *configv1.Policy) *configv1.Policy {
	p := proto.CloneOf(written)
	if p != nil {
		effectivePolicy(p)
	}
	return p
}

// CheckPolicy checks a policy that comes from a store, and whose defaults are filled in
// (see [EffectivePolicy]), as far as that can be done for one alone. The error is a
// [Problems].
func CheckPolicy(effective *configv1.Policy) error {
	return checkMessage(effective, func(f *findings) { checkPolicyName(f, "name", effective.GetName()) })
}

// checkDocuments checks what no rule about a single field can say.
func checkDocuments(d *configv1.Documents) findings {
	var f findings
	names := unique{}
	for i, p := range d.GetPolicies() {
		field := fmt.Sprintf("policies[%d]", i)
		names.document(&f, field, p.GetName())
		checkPolicyName(&f, field+".name", p.GetName())
	}
	for i, c := range d.GetCanaries() {
		field := fmt.Sprintf("canaries[%d]", i)
		names.document(&f, field, c.GetName())
		checkCanary(&f, field, c)
	}
	for i, e := range d.GetExperiments() {
		field := fmt.Sprintf("experiments[%d]", i)
		names.document(&f, field, e.GetName())
		checkExperiment(&f, field, e)
	}
	return f
}

// document is check for a document at a field.
func (u unique) document(f *findings, field, name string) {
	if first, taken := u[name]; taken {
		f.addf(field+".name", "%q is %s already: give it another name", name, first)
		return
	}
	u[name] = field
}

// checkPolicyName keeps names free for policies that are made of other documents.
func checkPolicyName(f *findings, field, name string) {
	for _, prefix := range []string{GeneratedOfCanaries, GeneratedOfExperiments} {
		if strings.HasPrefix(name, prefix) {
			f.addf(field, "%q: names that begin with %q are for what Pillion makes itself: choose another", name, prefix)
		}
	}
}
