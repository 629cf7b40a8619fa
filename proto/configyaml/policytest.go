package configyaml

import (
	"fmt"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// PolicyTestFile is a file of expectations about policies.
type PolicyTestFile struct {
	Test *configv1.PolicyTest
	doc  *document
}

// maxPolicyTestSize bounds a file of expectations, in bytes.
const maxPolicyTestSize = 16 << 20

// ReadPolicyTest reads and checks the file at path. The error is a [Problems] where the
// content is to blame.
func ReadPolicyTest(path string) (*PolicyTestFile, error) {
	data, err := readFile(path, maxPolicyTestSize)
	if err != nil {
		return nil, err
	}
	return parsePolicyTest(path, data)
}

func parsePolicyTest(path string, data []byte) (*PolicyTestFile, error) {
	test := &configv1.PolicyTest{}
	doc, problems := parse(path, data, test)
	if len(problems) > 0 {
		return nil, doc.report(alsoRules(problems, test), nil)
	}
	if problems = checkRules(test); len(problems) > 0 {
		return nil, doc.report(problems, nil)
	}
	return &PolicyTestFile{Test: test, doc: doc}, nil
}

// Locate says where in the file a field is: "file:line:column: field".
func (f *PolicyTestFile) Locate(field string) string { return f.Place(field) + ": " + field }

// Place says where in the file a field is: "file:line:column".
func (f *PolicyTestFile) Place(field string) string {
	line, column := f.doc.locate(field)
	return fmt.Sprintf("%s:%d:%d", f.doc.path, line, column)
}
