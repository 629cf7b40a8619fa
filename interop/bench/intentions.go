package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

func intentionsName(n int) string { return fmt.Sprintf("intentions %d", n) }

// intentionsService is the service that so many intentions are for.
func intentionsService(n int) string { return fmt.Sprintf("b%d", n) }

// joinIntentions starts an agent and pairs of Pillions whose inbound side has few and
// many of Consul's intentions. The agent is left to the caller to stop.
func (r *rig) joinIntentions(ctx context.Context, consul, pillion string) (*process, error) {
	agent, address, err := r.startConsul(ctx, consul)
	if err != nil {
		return agent, fmt.Errorf("consul: %w", err)
	}
	client, err := consulClient(address)
	if err != nil {
		return agent, err
	}
	// Else Consul takes no intentions of methods.
	grpcMesh := &api.ProxyConfigEntry{Kind: api.ProxyDefaults, Name: api.ProxyConfigGlobal, Config: map[string]any{"protocol": "grpc"}}
	if _, _, err := client.ConfigEntries().Set(grpcMesh, nil); err != nil {
		return agent, agent.failed("protocol: %w", err)
	}
	for _, n := range r.opts.ruleCounts() {
		if _, _, err := client.ConfigEntries().Set(intentions(n), nil); err != nil {
			return agent, agent.failed("%d intentions: %w", n, err)
		}
		_, err := r.joinPair(ctx, intentionsName(n), pillion, certificates{}, 0, func(s secureSite) (near, far launch, err error) {
			return launchInConsul(s, address, n)
		})
		if err != nil {
			return agent, err
		}
	}
	return agent, nil
}

// startConsul starts an agent that is its own server, beside the load, and returns its
// address too.
func (r *rig) startConsul(ctx context.Context, bin string) (*process, string, error) {
	dir := filepath.Join(r.dir, "consul")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, "", err
	}
	addresses, err := freeAddresses(3)
	if err != nil {
		return nil, "", err
	}
	ports := map[string]int{"serf_wan": -1, "dns": -1, "grpc": -1, "grpc_tls": -1}
	for i, name := range []string{"http", "server", "serf_lan"} {
		_, port, err := net.SplitHostPort(addresses[i])
		if err != nil {
			return nil, "", err
		}
		if ports[name], err = strconv.Atoi(port); err != nil {
			return nil, "", err
		}
	}
	config, err := json.Marshal(map[string]any{
		"server": true, "bootstrap_expect": 1, "node_name": "bench", "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
		"data_dir": filepath.Join(dir, "data"), "ports": ports, "performance": map[string]any{"raft_multiplier": 1},
		"connect": map[string]any{"enabled": true}, "default_intention_policy": "deny", "disable_update_check": true,
	})
	if err != nil {
		return nil, "", err
	}
	path := filepath.Join(dir, "consul.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return nil, "", err
	}
	agent, err := startProcess(command{name: "consul", argv: []string{bin, "agent", "-config-file=" + path}, dir: dir, core: r.where.load})
	if err != nil {
		return nil, "", err
	}
	client, err := consulClient(addresses[0])
	if err != nil {
		return agent, "", err
	}
	return agent, addresses[0], agent.poll(ctx, "sign certificates", func(ctx context.Context) bool {
		roots, _, err := client.Agent().ConnectCARoots((&api.QueryOptions{}).WithContext(ctx))
		return err == nil && len(roots.Roots) > 0
	})
}

func consulClient(address string) (*api.Client, error) {
	return api.NewClient(&api.Config{Address: address})
}

// intentions are n of a service, of which the load's caller has the last: for what the
// load calls alone.
func intentions(n int) *api.ServiceIntentionsConfigEntry {
	entry := &api.ServiceIntentionsConfigEntry{Kind: api.ServiceIntentions, Name: intentionsService(n)}
	for i := range n - 1 {
		entry.Sources = append(entry.Sources, &api.SourceIntention{Name: fmt.Sprintf("caller-%05d", i), Action: api.IntentionActionAllow})
	}
	entry.Sources = append(entry.Sources, &api.SourceIntention{Name: callerName, Permissions: []*api.IntentionPermission{
		{Action: api.IntentionActionAllow, HTTP: &api.IntentionHTTPPermission{PathExact: rpcPath}},
	}})
	return entry
}

// launchInConsul runs both of a pair with identities and intentions from Consul.
func launchInConsul(s secureSite, agent string, n int) (near, far launch, err error) {
	const nearConfig, farConfig = "near.yaml", "far.yaml"
	service, registry := intentionsService(n), fmt.Sprintf("registry: {consul: {address: %q}}\n", agent)
	err = errors.Join(
		os.WriteFile(filepath.Join(s.dir, nearConfig), fmt.Appendf(nil,
			"outbound: {listen: %q, default_service: %s}\nadmin: {listen: %q}\nidentity: {consul: {service: %s}}\n%s",
			s.listen, service, s.admin, callerName, registry), 0o600),
		os.WriteFile(filepath.Join(s.dir, farConfig), fmt.Appendf(nil,
			"service: {name: %s, address: %q, health_check: {disabled: true}}\ninbound: {listen: %q}\nadmin: {listen: %q}\nidentity: {consul: {}}\n%s",
			service, s.backend, s.far, s.farAdmin, registry), 0o600))
	return s.runPillion(nearConfig, s.admin), s.runPillion(farConfig, s.farAdmin), err
}

var errDenies = errors.New("what access rules or intentions say does not hold")

// denies fails where a pair lets an RPC pass that it should refuse, or would refuse
// everything.
func denies(ctx context.Context, c *contestant) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+c.site.listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	// Until Consul knows the service the RPC ends otherwise.
	err = c.proc.poll(ctx, "refuse another method's RPC", func(ctx context.Context) bool {
		err := conn.Invoke(ctx, strings.TrimSuffix(rpcPath, "Hello")+"Goodbye", &emptypb.Empty{}, &emptypb.Empty{})
		return status.Code(err) == codes.PermissionDenied
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errDenies, err)
	}
	return nil
}
