package chain

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Compiled is a discovery chain as `GET /v1/discovery-chain/<service>` answers it: as
// much of it as policies are made of.
type Compiled struct {
	ServiceName string
	Namespace   string
	Partition   string
	Datacenter  string
	// Default: there is no entry for the service but those about its protocol.
	Default   bool
	Protocol  string
	StartNode string
	Nodes     map[string]*Node
	Targets   map[string]*Target
}

// Node is a step on the way to an instance.
type Node struct {
	Type         string // one of the three below
	Name         string
	Routes       []*Route
	Splits       []*Split
	Resolver     *Resolver
	LoadBalancer *LoadBalancer
}

// The types of nodes.
const (
	typeRouter   = "router"
	typeSplitter = "splitter"
	typeResolver = "resolver"
)

// Route is a route of a service-router. The last one is Consul's own, for what no other
// matches.
type Route struct {
	Definition *struct {
		Match *struct {
			// HTTP is kept as it is written: what a later Consul adds to it is not to be
			// passed over.
			HTTP json.RawMessage
		}
		Destination *Destination
	}
	NextNode string
}

// HTTPMatch is what a route is for.
type HTTPMatch struct {
	PathExact, PathPrefix, PathRegex string
	CaseInsensitive                  bool
	Header                           []HeaderMatch
	QueryParam                       []json.RawMessage
	Methods                          []string
}

// HeaderMatch is a condition on a header.
type HeaderMatch struct {
	Name                         string
	Present                      bool
	Exact, Prefix, Suffix, Regex string
	Invert                       bool
}

// Destination is what a route does.
type Destination struct {
	PrefixRewrite                   string
	RequestTimeout                  Duration
	IdleTimeout                     Duration
	NumRetries                      uint32
	RetryOnConnectFailure           bool
	RetryOn                         []string
	RetryOnStatusCodes              []uint32
	RequestHeaders, ResponseHeaders *Headers
}

// Headers are changes of headers.
type Headers struct {
	Add, Set map[string]string
	Remove   []string
}

// Split is a leg of a service-splitter.
type Split struct {
	Definition *struct {
		RequestHeaders, ResponseHeaders *Headers
	}
	// Weight is the leg's share in percent.
	Weight   float32
	NextNode string
}

// Resolver says which target a way ends at.
type Resolver struct {
	ConnectTimeout Duration
	RequestTimeout Duration
	Target         string
	Failover       *Failover
}

// Failover are the targets that stand in for one, in their order.
type Failover struct {
	Targets []string
	Policy  *struct{ Mode string }
	Regions []string
}

// Target is a service, or a subset of one.
type Target struct {
	Service       string
	ServiceSubset string
	Namespace     string
	Partition     string
	Datacenter    string
	Peer          string
	MeshGateway   struct{ Mode string }
	Subset        Filter
	// ConnectTimeout is what the target's service-resolver says.
	ConnectTimeout Duration
	External       bool

	PrioritizeByLocality *struct{ Mode string }
}

// LoadBalancer says how an instance is chosen.
type LoadBalancer struct {
	Policy             string
	RingHashConfig     *struct{ MinimumRingSize, MaximumRingSize uint64 }
	LeastRequestConfig *struct{ ChoiceCount uint32 }
	HashPolicies       []HashPolicy
}

// HashPolicy says what is hashed.
type HashPolicy struct {
	Field, FieldValue string
	CookieConfig      *struct {
		Session bool
		TTL     Duration
		Path    string
	}
	SourceIP bool
	Terminal bool
}

// Duration is written by Consul as "1m0s", or as nanoseconds.
type Duration time.Duration

// UnmarshalJSON reads either.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		if text == "" {
			return nil
		}
		read, err := time.ParseDuration(text)
		*d = Duration(read)
		return err
	}
	var nanoseconds int64
	err := json.Unmarshal(data, &nanoseconds)
	*d = Duration(nanoseconds)
	return err
}

// maxNodes bounds the nodes and the targets of a chain.
const maxNodes = 10_000

// Parse reads Consul's answer. A chain that it returns is whole: what it names is there.
func Parse(answer []byte) (*Compiled, error) {
	var read struct{ Chain *Compiled }
	if err := json.Unmarshal(answer, &read); err != nil { //nolint:musttag // Consul writes its own names
		return nil, fmt.Errorf("it is no discovery chain: %w", err)
	}
	c := read.Chain
	if c == nil {
		return nil, errors.New("it has no discovery chain")
	}
	return c, c.check()
}

func (c *Compiled) check() error {
	if len(c.Nodes) > maxNodes || len(c.Targets) > maxNodes {
		return fmt.Errorf("the chain of %.100q has more than %d nodes or targets", c.ServiceName, maxNodes)
	}
	if c.StartNode != "" && c.Nodes[c.StartNode] == nil {
		return fmt.Errorf("the chain of %.100q begins at a node that is not there, %.100q", c.ServiceName, c.StartNode)
	}
	for name, n := range c.Nodes {
		if err := c.checkNode(n); err != nil {
			return fmt.Errorf("the chain of %.100q, node %.100q: %w", c.ServiceName, name, err)
		}
	}
	for name, t := range c.Targets {
		if t == nil {
			return fmt.Errorf("the chain of %.100q, target %.100q: it is empty", c.ServiceName, name)
		}
	}
	return nil
}

func (c *Compiled) checkNode(n *Node) error {
	if n == nil {
		return errors.New("it is empty")
	}
	switch n.Type {
	case typeRouter:
		for i, r := range n.Routes {
			if r == nil || c.Nodes[r.NextNode] == nil || c.Nodes[r.NextNode].Type == typeRouter {
				return fmt.Errorf("route %d leads to no splitter or resolver", i)
			}
		}
	case typeSplitter:
		for i, s := range n.Splits {
			if s == nil || c.Nodes[s.NextNode] == nil || c.Nodes[s.NextNode].Type != typeResolver {
				return fmt.Errorf("split %d leads to no resolver", i)
			}
		}
	case typeResolver:
		if n.Resolver == nil || c.Targets[n.Resolver.Target] == nil {
			return errors.New("it leads to no target")
		}
		if f := n.Resolver.Failover; f != nil {
			for _, name := range f.Targets {
				if c.Targets[name] == nil {
					return fmt.Errorf("it fails over to a target that is not there, %.100q", name)
				}
			}
		}
	default:
		return fmt.Errorf("its type is %.100q, which is not known here", n.Type)
	}
	return nil
}
