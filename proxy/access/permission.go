package access

import (
	"slices"
	"strings"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/internal/regex"
	"github.com/pillion-proxy/pillion/registry"
)

// permissions are those of one intention, in their order.
type permissions struct {
	list  []permission
	look  bool               // any of them asks for headers
	exact map[string][]int32 // those that ask for a path, by it
	other []int32            // those that ask for none, for how it begins, or for an expression
}

// permission is a condition on requests, and what holds for those that meet it.
type permission struct {
	allow  bool
	always bool // it holds whatever the request
	never  bool // it holds for none

	path    pathTest
	text    string // of pathExact and pathPrefix
	regex   *regex.Regex
	headers []header
}

type pathTest uint8

const (
	pathAny pathTest = iota
	pathExact
	pathPrefix
	pathRegex
)

// gRPC's only HTTP method.
const method = "POST"

func compilePermissions(list []registry.IntentionPermission) *permissions {
	p := &permissions{list: make([]permission, 0, len(list)), exact: map[string][]int32{}}
	for i := range list {
		one := compilePermission(&list[i])
		p.look = p.look || len(one.headers) > 0
		if one.path == pathExact && !one.always {
			p.exact[one.text] = append(p.exact[one.text], int32(i))
		} else {
			p.other = append(p.other, int32(i))
		}
		p.list = append(p.list, one)
	}
	return p
}

func compilePermission(in *registry.IntentionPermission) permission {
	p := permission{allow: in.Allow}
	understood := in.Unsupported == ""
	switch {
	case in.PathExact != "":
		p.path, p.text = pathExact, in.PathExact
	case in.PathPrefix != "":
		p.path, p.text = pathPrefix, in.PathPrefix
	case in.PathRegex != "":
		var err error
		p.path = pathRegex
		p.regex, err = regex.Compile(in.PathRegex)
		understood = understood && err == nil
	}
	for i := range in.Headers {
		h, ok := compileHeader(&in.Headers[i])
		understood = understood && ok
		p.headers = append(p.headers, h)
	}
	p.never = len(in.Methods) > 0 && !slices.Contains(in.Methods, method)
	if !understood && !p.never { // what it asks for beside cannot be told
		p.always, p.never = !p.allow, p.allow
	}
	return p
}

// first returns the first permission that holds for a request; nil: none does. Where it
// cannot be told whether one does, one that allows does not, and one that denies does.
func (p *permissions) first(path string, odd bool, fields []hpack.Field) *permission {
	if odd {
		for i := range p.list {
			if p.list[i].holds(path, odd, fields) {
				return &p.list[i]
			}
		}
		return nil
	}
	exact, other := p.exact[path], p.other
	for len(exact) > 0 || len(other) > 0 {
		list := &exact
		if len(exact) == 0 || len(other) > 0 && other[0] < exact[0] {
			list = &other
		}
		one := &p.list[(*list)[0]]
		if *list = (*list)[1:]; one.holds(path, odd, fields) {
			return one
		}
	}
	return nil
}

func (p *permission) holds(path string, odd bool, fields []hpack.Field) bool {
	if p.always || p.never {
		return p.always
	}
	if p.path != pathAny && odd {
		return !p.allow // as with access rules, whatever else it asks for
	}
	if !p.pathHolds(path) {
		return false
	}
	for i := range p.headers {
		if !p.headers[i].holds(fields, !p.allow) {
			return false
		}
	}
	return true
}

func (p *permission) pathHolds(path string) bool {
	switch p.path {
	case pathExact:
		return path == p.text
	case pathPrefix:
		return strings.HasPrefix(path, p.text)
	case pathRegex:
		if matches, told := p.regex.Match(path); told {
			return matches
		}
		return !p.allow
	case pathAny:
	}
	return true
}
