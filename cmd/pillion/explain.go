package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/cmd/pillion/explain"
	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/balance"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/routing"
	"github.com/pillion-proxy/pillion/proxy/upstream"
	"github.com/pillion-proxy/pillion/registry"
)

// explainFlags are what `pillion explain` is told beside the RPC's name.
type explainFlags struct {
	metadata, policies     []string
	config                 string
	caller, random, output string
	from                   string
	admin                  adminFlags
	cmd                    *cobra.Command
	service, method        string
}

func newExplainCommand() *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain SERVICE METHOD",
		Short: "Say what policies make of an RPC, and why",
		Long: `Say which rules are looked at for an RPC and why they match or not, which policies
hold, where it goes, and which instances it may go to. SERVICE is what the client dials
or writes into :authority, METHOD is pkg.Service/Method. Nothing is sent.

A running sidecar is asked, by its admin port. It knows its instances, their breakers,
ejections and health. With --policies or --config files are asked instead.

What is left to chance is told with how likely it is; --random decides it.`,
		Example: `  pillion explain greeter helloworld.Greeter/SayHello -H user-id=42
  pillion explain greeter helloworld.Greeter/SayHello -f policies.yaml
  pillion explain greeter helloworld.Greeter/SayHello -c pillion.yaml --caller web -o json
  pillion explain greeter helloworld.Greeter/SayHello --from spiffe://example.org/svc/web`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("%d arguments are given, but a service and a method are wanted, such as: pillion explain greeter helloworld.Greeter/SayHello", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			f.cmd, f.service, f.method = cmd, args[0], args[1]
			return f.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.metadata, "header", "H", nil, "metadata of the RPC, `KEY=VALUE`, those of -bin keys in base64; may be repeated")
	flags.StringVar(&f.caller, "caller", "", "the `SERVICE` that the RPC comes from; the local app, where that is known")
	flags.StringVar(&f.from, "from", "", "the `SPIFFE-ID` that the caller proves beside the service; that of the sidecar, where it has one")
	flags.StringVar(&f.random, "random", "", "decide what is left to chance by this `NUMBER`")
	addPoliciesFlag(cmd, &f.policies, "ask the policies of this file or folder; may be repeated")
	flags.StringVarP(&f.config, configFlag, "c", "", "ask the policies that this bootstrap `FILE` names")
	f.admin.add(cmd)
	addOutputFlag(cmd, &f.output, "text")
	_ = cmd.MarkFlagFilename(configFlag, "yaml", "yml")
	for _, name := range []string{"header", "caller", "from", "random"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}

func (f *explainFlags) run(ctx context.Context, out io.Writer) error {
	if f.output != "text" && f.output != "json" {
		return fmt.Errorf("--output: %q is not known: use text or json", f.output)
	}
	request, err := f.request()
	if err != nil {
		return err
	}
	answer, err := f.ask(ctx, request)
	if err != nil {
		return err
	}
	if f.output == "json" {
		return writeJSON(out, answer)
	}
	_, err = io.WriteString(out, explain.Text(out, answer))
	return err
}

// request is the RPC that the flags describe.
func (f *explainFlags) request() (*adminv1.ExplainRequest, error) {
	request := &adminv1.ExplainRequest{Authority: f.service, Method: f.method, Caller: f.caller, From: f.from}
	if service, method, ok := strings.Cut(strings.TrimPrefix(f.method, "/"), "/"); !ok || service == "" || method == "" || strings.Contains(method, "/") {
		return nil, fmt.Errorf("method %q: write it as pkg.Service/Method, such as helloworld.Greeter/SayHello", f.method)
	}
	for _, text := range f.metadata {
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("--header: %q is not of the form KEY=VALUE, such as user-id=42", text)
		}
		if err := explain.CheckMetadata(key, value); err != nil {
			return nil, fmt.Errorf("--header: %w", err)
		}
		request.Metadata = append(request.Metadata, &adminv1.Metadata{Key: key, Value: value})
	}
	if f.from != "" {
		if _, err := identity.ParseID(f.from); err != nil {
			return nil, fmt.Errorf("--from: %w", err)
		}
	}
	if f.random != "" {
		n, err := strconv.ParseUint(f.random, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("--random: %q is not a whole number from 0 on", f.random)
		}
		request.Random = &n
	}
	return request, nil
}

// ask has files, or a running sidecar, explain the RPC.
func (f *explainFlags) ask(ctx context.Context, request *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	given := f.cmd.Flags().Changed
	switch {
	case len(f.policies) > 0 && f.config != "", (len(f.policies) > 0 || f.config != "") && given("admin"):
		return nil, errors.New("--policies, --config and --admin exclude each other: give one")
	case f.config != "":
		b, err := configyaml.ReadBootstrap(f.config)
		if err != nil {
			return nil, err
		}
		p, err := bootstrapPolicies(b)
		if err != nil {
			return nil, err
		}
		return explainFiles(ctx, p, b, request)
	case len(f.policies) > 0:
		p, err := readPolicyFiles(f.policies, configyaml.DefaultMeshSize)
		if err != nil {
			return nil, err
		}
		return explainFiles(ctx, p, nil, request)
	}
	return f.askSidecar(ctx, request)
}

// explainFiles explains an RPC by files. The bootstrap may be nil.
func explainFiles(ctx context.Context, p *policyFiles, b *configv1.Bootstrap, request *adminv1.ExplainRequest) (*adminv1.ExplainResponse, error) {
	set, err := p.compile()
	if err != nil {
		return nil, err
	}
	return explain.Explain(ctx, filesWorld(set, p, b), request)
}

// filesWorld is what files say of where RPCs go.
func filesWorld(set *policy.Set, p *policyFiles, b *configv1.Bootstrap) *explain.World {
	way, _ := balance.ParsePolicy(b.GetOutbound().GetLoadBalancing())
	return &explain.World{
		Set:    set,
		Place:  func(name string) string { return p.place(name, "") },
		Locate: p.place,
		Find: func(authority, path string) (service, by string) {
			return p.find(authority, path, b.GetOutbound().GetDefaultService())
		},
		Cluster: func(_ context.Context, service string) (*upstream.Cluster, string, func()) {
			written := p.services[service]
			switch {
			case p.services == nil:
				return nil, "no file says which instances there are: ask a sidecar (--admin), or a bootstrap with a mesh file (--config)", nil
			case written == nil:
				return nil, fmt.Sprintf("no file says where service %q is", service), nil
			}
			var endpoints []registry.Endpoint
			for _, e := range written.GetEndpoints() {
				endpoints = append(endpoints, registry.Endpoint{ID: e.GetAddress(), Address: e.GetAddress(), Weight: max(e.GetWeight(), 1), Meta: e.GetMeta(), Tags: e.GetTags()})
			}
			c, done := explain.Unused(service, endpoints, set, way, b.GetService().GetMeta())
			return c, "", done
		},
		Caller:         b.GetService().GetName(),
		ServiceID:      b.GetIdentity().GetServiceId(),
		DefaultTimeout: b.GetOutbound().GetDefaultTimeout().AsDuration(), MaxTimeout: b.GetOutbound().GetMaxTimeout().AsDuration(),
		Now: time.Now(),
	}
}

// find says which service an RPC is addressed to, in the order in which a sidecar looks
// for it. Where no file has services, what the authority says is believed.
func (p *policyFiles) find(authority, path, byDefault string) (service, by string) {
	name := routing.ServiceName(authority)
	if name != "" && (p.services == nil || p.services[name] != nil || slices.ContainsFunc(p.list, func(one *configv1.Policy) bool {
		return one.GetService() == name && one.GetRoute() != nil
	})) {
		return name, "authority"
	}
	grpcService, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	var answering []string
	for name, s := range p.services {
		if slices.Contains(s.GetGrpc(), grpcService) {
			answering = append(answering, name)
		}
	}
	if len(answering) == 1 {
		return answering[0], "grpc service"
	}
	if byDefault != "" {
		return byDefault, "default"
	}
	return "", ""
}

// askSidecar has a running sidecar explain the RPC.
func (f *explainFlags) askSidecar(ctx context.Context, request *adminv1.ExplainRequest) (answer *adminv1.ExplainResponse, err error) {
	err = f.admin.ask(ctx, f.admin.address, func(ctx context.Context, sidecar adminv1.AdminClient) (err error) {
		answer, err = sidecar.Explain(ctx, request)
		return err
	})
	if errors.Is(err, errNoSidecar) {
		err = fmt.Errorf("%w Files are asked with --policies or --config", err)
	}
	return answer, err
}

// writeJSON writes a message as the admin port does: named as in the proto files.
func writeJSON(out io.Writer, m proto.Message) error {
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return err
	}
	// protojson varies its white space on purpose; what people compare should not vary.
	var value json.RawMessage = raw
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}
