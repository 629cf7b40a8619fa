package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

// maxLines bounds the problems, and the warnings, of one set that are printed.
const maxLines = 50

// policyFiles are policies as files have them, each good by itself.
type policyFiles struct {
	list  []*configv1.Policy
	from  map[string]*configyaml.PolicyFile // by policy
	files []*configyaml.PolicyFile
	// others are canaries and experiments, and where each is by name.
	others []*controlv1.Document
	at     map[string]documentPlace
	// services are those of mesh files among them; nil: there is none.
	services map[string]*configv1.MeshService
}

func newPolicyFiles() *policyFiles {
	return &policyFiles{from: map[string]*configyaml.PolicyFile{}, at: map[string]documentPlace{}}
}

// readPolicyFiles reads files, and all files of folders. Mesh files are taken too. The
// error has a line for each problem.
func readPolicyFiles(paths []string, limit int64) (*policyFiles, error) {
	p := newPolicyFiles()
	var errs []error
	for _, path := range paths {
		files, err := configyaml.PolicyPaths(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, file := range files {
			f, err := configyaml.ReadPolicyFile(file, limit)
			if err == nil {
				err = p.add(f)
			}
			if err != nil {
				errs = append(errs, err)
			}
		}
	}
	return p, errors.Join(errs...)
}

// add takes the policies of a further file.
func (p *policyFiles) add(f *configyaml.PolicyFile) error {
	var errs []error
	p.files = append(p.files, f)
	for _, one := range f.Mesh.GetPolicies() {
		if other := p.taken(one.GetName()); other != "" {
			errs = append(errs, nameIsTaken(f.Locate(one.GetName(), "name"), other))
			continue
		}
		p.from[one.GetName()] = f
		p.list = append(p.list, one)
	}
	if f.Documents != nil {
		errs = append(errs, p.addOthers(f.Documents))
	}
	if services := f.Mesh.GetServices(); services != nil {
		if p.services == nil {
			p.services = map[string]*configv1.MeshService{}
		}
		maps.Copy(p.services, services)
	}
	return errors.Join(errs...)
}

// addOthers takes the canaries and experiments of a further file.
func (p *policyFiles) addOthers(f *configyaml.DocumentsFile) error {
	var errs []error
	counts := map[control.Kind]int{}
	for _, one := range documents.Of(f.Effective) {
		id, _ := documents.IDOf(one)
		place := documentPlace{f, fmt.Sprintf("%s[%d]", documents.Plural(id.Kind), counts[id.Kind])}
		counts[id.Kind]++
		if id.Kind == control.Policy {
			continue
		}
		if other := p.taken(id.Name); other != "" {
			errs = append(errs, nameIsTaken(place.locate("name"), other))
			continue
		}
		p.at[id.Name] = place
		p.others = append(p.others, one)
	}
	return errors.Join(errs...)
}

// taken returns the file that has something of this name already; "": none has.
func (p *policyFiles) taken(name string) string {
	if f := p.from[name]; f != nil {
		return f.Path
	}
	if place, is := p.at[name]; is {
		return place.file.Path
	}
	return ""
}

func nameIsTaken(place, by string) error {
	return fmt.Errorf("%s: there is one of this name in %s already: give it another name", place, by)
}

// compileOthers looks whether canaries and experiments can hold beside the policies.
func (p *policyFiles) compileOthers() (warnings []string, err error) {
	if len(p.others) == 0 {
		return nil, nil
	}
	all := slices.Concat(documents.Of(&configv1.Documents{Policies: p.list}), p.others)
	refusals, unsure := documents.Check(all, madePolicy)
	var errs []error
	for _, r := range refusals {
		if r.ID.Kind != control.Policy { // compile says those
			errs = append(errs, fmt.Errorf("%s: %s", p.at[r.ID.Name].locate(r.Field), r.Message))
		}
	}
	for _, r := range unsure {
		warnings = append(warnings, fmt.Sprintf("%s: %s", p.at[r.ID.Name].locate(r.Field), r.Message))
	}
	return warnings, errors.Join(errs...)
}

// locate returns "file:line:column: field".
func (p *policyFiles) locate(name, field string) string {
	if f := p.from[name]; f != nil {
		return f.Locate(name, field)
	}
	return "policy " + name + ": " + field
}

// place returns "file:line:column".
func (p *policyFiles) place(name, field string) string {
	at, _, _ := strings.Cut(p.locate(name, field), ": ")
	return at
}

// compile compiles the policies as a whole set. The error has a line for each problem.
func (p *policyFiles) compile() (*policy.Set, error) {
	set, refusals := policy.Compile(p.list, nil, policy.Env{})
	var errs []error
	for i, r := range refusals {
		if i == maxLines {
			errs = append(errs, fmt.Errorf("and %d more problems", len(refusals)-i))
			break
		}
		errs = append(errs, fmt.Errorf("%s: %s", p.locate(r.Policy, r.Field), r.Message))
	}
	_, err := p.compileOthers()
	return set, errors.Join(append(errs, err)...)
}

// warnings says what can never come to pass, a line for each. known are the services
// that there are; nil: that is not known.
func (p *policyFiles) warnings(known []string) (lines []string) {
	lines, _ = p.compileOthers()
	warnings := policy.Warnings(p.list, known)
	for i, w := range warnings {
		if i == maxLines {
			return append(lines, fmt.Sprintf("and %d more", len(warnings)-i))
		}
		lines = append(lines, fmt.Sprintf("%s: %s", p.locate(w.Policy, w.Field), w.Message))
	}
	return lines
}

// known returns the names of the services of mesh files among them; nil: there is none.
func (p *policyFiles) known() []string {
	if p.services == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(p.services))
}

// policyPaths are where a bootstrap's policies are written, the mesh file first.
func policyPaths(b *configv1.Bootstrap) (mesh, policies string) {
	return b.GetRegistry().GetFile().GetPath(), b.GetPolicies().GetPath()
}

// bootstrapPolicies reads all policies that a bootstrap names.
func bootstrapPolicies(b *configv1.Bootstrap) (*policyFiles, error) {
	p := newPolicyFiles()
	var errs []error
	mesh, policies := policyPaths(b)
	if mesh != "" {
		f, err := configyaml.ReadPolicyFile(mesh, int64(b.GetRegistry().GetFile().GetMaxSize()))
		if err == nil {
			err = p.add(f)
		}
		if err != nil {
			errs = append(errs, err)
		} else if p.services == nil {
			p.services = map[string]*configv1.MeshService{}
		}
	}
	if policies != "" {
		more, err := readPolicyFiles([]string{policies}, int64(b.GetPolicies().GetMaxSize()))
		if err != nil {
			errs = append(errs, err)
		}
		for _, f := range more.files {
			if err := f.OnlyPolicies(); err != nil {
				errs = append(errs, err)
				continue
			}
			if err := p.add(f); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if static := b.GetRegistry().GetStatic().GetUpstreams(); static != nil {
		p.services = map[string]*configv1.MeshService{}
		for name, up := range static {
			service := &configv1.MeshService{}
			for _, address := range up.GetAddresses() {
				service.Endpoints = append(service.Endpoints, &configv1.MeshEndpoint{Address: address})
			}
			p.services[name] = service
		}
	}
	return p, errors.Join(errs...)
}
