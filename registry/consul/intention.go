package consul

import (
	"bytes"
	"cmp"
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/pillion-proxy/pillion/registry"
)

// intention is one as Consul's match call answers it.
type intention struct {
	SourceNS, SourceName, SourcePartition, SourcePeer, SourceSamenessGroup string
	DestinationNS, DestinationName, DestinationPartition                   string

	SourceType  string
	Action      string
	Permissions []json.RawMessage
	JWT         *jwtRequirement
	Precedence  int
}

// jwtRequirement says which JSON web tokens a request must carry. Nothing here checks
// any, so that what asks for one is never met.
type jwtRequirement struct {
	Providers []json.RawMessage `json:"Providers"`
}

// asks says that there is a requirement: an empty one asks for nothing.
func (r *jwtRequirement) asks() bool { return r != nil && len(r.Providers) > 0 }

// permission is what an intention says of single requests.
type permission struct {
	Action string          `json:"Action"`
	HTTP   *httpPermission `json:"HTTP"`
	JWT    *jwtRequirement `json:"JWT"`
}

type httpPermission struct {
	PathExact  string             `json:"PathExact"`
	PathPrefix string             `json:"PathPrefix"`
	PathRegex  string             `json:"PathRegex"`
	Methods    []string           `json:"Methods"`
	Header     []headerPermission `json:"Header"`
}

type headerPermission struct {
	Name       string `json:"Name"`
	Present    bool   `json:"Present"`
	Exact      string `json:"Exact"`
	Prefix     string `json:"Prefix"`
	Suffix     string `json:"Suffix"`
	Contains   string `json:"Contains"`
	Regex      string `json:"Regex"`
	Invert     bool   `json:"Invert"`
	IgnoreCase bool   `json:"IgnoreCase"`
}

const (
	actionAllow = "allow"
	fromConsul  = "consul"
)

// intentionsOf makes an answer what the proxy obeys, in the order of precedence. What
// is for callers that cannot be told, such as those of a sameness group that Consul
// has not resolved, is left out: they are not believed to begin with.
func intentionsOf(found []*intention) []registry.Intention {
	found = slices.DeleteFunc(slices.Clone(found), func(i *intention) bool {
		return i == nil || i.SourceName == "" || i.SourceSamenessGroup != "" || i.SourceType != "" && i.SourceType != fromConsul
	})
	slices.SortStableFunc(found, func(a, b *intention) int {
		return cmp.Or(
			cmp.Compare(b.Precedence, a.Precedence),
			cmp.Compare(a.SourcePeer, b.SourcePeer),
			cmp.Compare(a.SourcePartition, b.SourcePartition),
			cmp.Compare(a.SourceNS, b.SourceNS),
			cmp.Compare(a.SourceName, b.SourceName),
			cmp.Compare(a.DestinationPartition, b.DestinationPartition),
			cmp.Compare(a.DestinationNS, b.DestinationNS),
			cmp.Compare(a.DestinationName, b.DestinationName),
		)
	})

	made := make([]registry.Intention, 0, len(found))
	for _, i := range found {
		made = append(made, i.registry())
	}

	return made
}

// registry makes an intention what the proxy obeys. One that asks for a JWT allows
// nothing.
func (i *intention) registry() registry.Intention {
	made := registry.Intention{
		Service: i.SourceName, Namespace: cmp.Or(i.SourceNS, consulDefault), Partition: cmp.Or(i.SourcePartition, consulDefault),
		Peer: i.SourcePeer, Destination: i.DestinationName,
		Allow: i.Action == actionAllow && !i.JWT.asks(),
	}
	for _, text := range i.Permissions {
		one := permissionOf(text)
		one.Allow = one.Allow && !i.JWT.asks()
		made.Permissions = append(made.Permissions, one)
	}

	return made
}

// permissionOf reads a permission. Conditions that a later Consul may add are not
// passed over: the permission says then that there is more to it. One that allows
// requests with a JWT refuses all that it is for, and leaves none to the permissions
// after it, as in Consul those without such a JWT are.
func permissionOf(text json.RawMessage) registry.IntentionPermission {
	var p permission
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	unsupported := ""
	if decoder.Decode(&p) != nil {
		unsupported = "a condition that is not known here"
		p = permission{}
		if json.Unmarshal(text, &p) != nil {
			return registry.IntentionPermission{Unsupported: unsupported}
		}
	}

	made := registry.IntentionPermission{Allow: p.Action == actionAllow && !p.JWT.asks(), Unsupported: unsupported}
	if p.HTTP == nil {
		return made
	}
	// Of several, the one that Consul's own sidecars look at.
	switch {
	case p.HTTP.PathExact != "":
		made.PathExact = p.HTTP.PathExact
	case p.HTTP.PathPrefix != "":
		made.PathPrefix = p.HTTP.PathPrefix
	case p.HTTP.PathRegex != "":
		made.PathRegex = p.HTTP.PathRegex
	}
	expressions := []string{made.PathRegex}
	for _, h := range p.HTTP.Header {
		header := registry.IntentionHeader{Name: strings.ToLower(h.Name), IgnoreCase: h.IgnoreCase, Invert: h.Invert}
		switch {
		case h.Exact != "":
			header.Exact = h.Exact
		case h.Regex != "":
			header.Regex, header.IgnoreCase = h.Regex, false // as with Envoy, it says so itself
			expressions = append(expressions, h.Regex)
		case h.Prefix != "":
			header.Prefix = h.Prefix
		case h.Suffix != "":
			header.Suffix = h.Suffix
		case h.Contains != "":
			header.Contains = h.Contains
		case h.Present:
			header.Present = true
		default:
			made.Unsupported = "a condition on a header that does not say what the header has to be"
		}
		made.Headers = append(made.Headers, header)
	}
	for _, method := range p.HTTP.Methods {
		made.Methods = append(made.Methods, strings.ToUpper(method))
	}
	for _, expression := range expressions {
		if _, err := regexp.Compile(expression); err != nil {
			made.Unsupported = "a regular expression that cannot be read"
		}
	}

	return made
}
