package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// setting is a part of the bootstrap that a flag or an environment variable can
// set. The flag wins over the variable, the variable over the file.
type setting struct {
	// flag is the flag's name; the variable's follows from it.
	flag string
	// value stands for the value in help texts.
	value string
	usage string
	// repeated says that the flag may be given more than once. The variable
	// then separates its values by semicolons.
	repeated bool
	// choices are offered by shell completion; nil offers file names where
	// value is "FILE".
	choices []string
	// set sets it and returns the path of the field or block that was set.
	set func(b *configv1.Bootstrap, values []string) (field string, err error)
}

// settings are all there are, in the order of the help text.
var settings = []setting{
	{
		flag: "outbound", value: "ADDRESS",
		usage: "listen here for the clients beside this sidecar, such as 127.0.0.1:15001 or unix:///run/pillion.sock",
		set:   text("outbound.listen", func(b *configv1.Bootstrap) *string { return &made(&b.Outbound).Listen }),
	},
	{
		flag: "inbound", value: "ADDRESS",
		usage: "listen here for the rest of the mesh, such as 0.0.0.0:15006; needs a service",
		set:   text("inbound.listen", func(b *configv1.Bootstrap) *string { return &made(&b.Inbound).Listen }),
	},
	{
		flag: "admin", value: "ADDRESS",
		usage: "serve the admin API, metrics and readiness here, such as 127.0.0.1:15000",
		set:   text("admin.listen", func(b *configv1.Bootstrap) *string { return &made(&b.Admin).Listen }),
	},
	{
		flag: "service", value: "NAME=PORT",
		usage: "the local app's name in the mesh and where it listens: a port of 127.0.0.1, host:port or unix:///path",
		set:   setService,
	},
	{
		flag: "upstream", value: "NAME=ADDRESS,...", repeated: true,
		usage: "a service and the addresses of its instances; may be repeated; one alone is also the default destination",
		set:   setUpstreams,
	},
	{
		flag: "file", value: "FILE",
		usage: "find services in this mesh file",
		set:   setFile,
	},
	{
		flag: "consul", value: "ADDRESS",
		usage: "find services by Consul's agent at this address, such as 127.0.0.1:8500",
		set:   setConsul,
	},
	{
		flag: controlFlag, value: "consul|FOLDER", choices: []string{inConsul},
		usage: "do what the documents of the mesh say which are in Consul's KV, or in this folder",
		set:   setControl,
	},
	{
		flag: "default-service", value: "NAME",
		usage: "the destination of RPCs that name none",
		set:   text("outbound.default_service", func(b *configv1.Bootstrap) *string { return &made(&b.Outbound).DefaultService }),
	},
	{
		flag: "load-balancing", value: "POLICY", choices: []string{"round_robin", "least_request", "pick_first"},
		usage: "how an instance is picked: round_robin, least_request or pick_first",
		set:   text("outbound.load_balancing", func(b *configv1.Bootstrap) *string { return &made(&b.Outbound).LoadBalancing }),
	},
	{
		flag: "access-log", value: "FILE",
		usage: "write a line per RPC to this file, or to stdout or stderr",
		set:   text("access_log.path", func(b *configv1.Bootstrap) *string { return &made(&b.AccessLog).Path }),
	},
	{
		flag: "log-level", value: "LEVEL", choices: []string{"debug", "info", "warn", "error"},
		usage: "the least level of the sidecar's own log: debug, info, warn or error",
		set:   text("log.level", func(b *configv1.Bootstrap) *string { return &made(&b.Log).Level }),
	},
	{
		flag: "log-format", value: "FORMAT", choices: []string{"auto", "text", "json"},
		usage: "the form of the sidecar's own log: text, json, or auto (text on a terminal)",
		set:   text("log.format", func(b *configv1.Bootstrap) *string { return &made(&b.Log).Format }),
	},
	{
		flag: "drain-timeout", value: "DURATION",
		usage: "how long the end may take after SIGTERM, such as 30s",
		set:   setDrainTimeout,
	},
}

// registrySettings are those of which one excludes the others.
var registrySettings = []string{"upstream", "file", "consul"}

const configFlag = "config"

// variable is the environment variable of a flag.
func variable(flag string) string {
	return "PILLION_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// flagValue is the value of a flag that is given as text.
type flagValue struct {
	// kind stands for the value in the help text.
	kind     string
	repeated bool
	// values are what was given, nil if nothing was. Without repeated the last
	// one counts.
	values []string
}

func (v *flagValue) String() string { return strings.Join(v.values, ";") }

func (v *flagValue) Type() string { return v.kind }

func (v *flagValue) Set(value string) error {
	if !v.repeated {
		v.values = nil
	}
	v.values = append(v.values, value)
	return nil
}

// addBootstrapFlags gives a command the flags that bootstrapFrom reads.
func addBootstrapFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.VarP(&flagValue{kind: "FILE"}, configFlag, "c", usage("read this bootstrap", configFlag))
	_ = cmd.MarkFlagFilename(configFlag, "yaml", "yml")
	for _, s := range settings {
		flags.Var(&flagValue{kind: s.value, repeated: s.repeated}, s.flag, usage(s.usage, s.flag))
		if s.value != "FILE" {
			files := cobra.ShellCompDirectiveNoFileComp
			if strings.Contains(s.value, "FOLDER") {
				files = cobra.ShellCompDirectiveDefault
			}
			_ = cmd.RegisterFlagCompletionFunc(s.flag, cobra.FixedCompletions(s.choices, files))
		}
	}
}

func usage(text, flag string) string { return text + " [$" + variable(flag) + "]" }

// bootstrapFrom returns the effective bootstrap that a command's flags (see
// addBootstrapFlags), the environment and the file say together, in this
// order of precedence.
func bootstrapFrom(cmd *cobra.Command) (*configv1.Bootstrap, error) {
	return readBootstrap(cmd.Flags(), os.Getenv)
}

func readBootstrap(flags *pflag.FlagSet, getenv func(string) string) (*configv1.Bootstrap, error) {
	path := configPath(flags, getenv)
	fromFlags, fromVariables := given(flags), inEnvironment(getenv)
	if path == "" && len(fromFlags) == 0 && len(fromVariables) == 0 {
		return nil, errors.New("nothing to do: give a bootstrap file with -c, or --outbound with --upstream, --file or --consul (see --help)")
	}
	return configyaml.ReadBootstrap(path,
		override(fromVariables, variable),
		override(fromFlags, func(flag string) string { return "--" + flag }))
}

// configPath returns the bootstrap file that is asked for, "" for none.
func configPath(flags *pflag.FlagSet, getenv func(string) string) string {
	return cmp.Or(flags.Lookup(configFlag).Value.String(), getenv(variable(configFlag)))
}

// given returns the values of the flags that were given, by flag.
func given(flags *pflag.FlagSet) map[string][]string {
	values := map[string][]string{}
	for _, s := range settings {
		if value, ok := flags.Lookup(s.flag).Value.(*flagValue); ok && value.values != nil {
			values[s.flag] = value.values
		}
	}
	return values
}

// inEnvironment returns the values of the variables that are set, by flag. An
// empty variable counts as not set.
func inEnvironment(getenv func(string) string) map[string][]string {
	values := map[string][]string{}
	for _, s := range settings {
		value := getenv(variable(s.flag))
		switch {
		case value == "":
		case s.repeated:
			values[s.flag] = slices.DeleteFunc(strings.Split(value, ";"), func(v string) bool { return strings.TrimSpace(v) == "" })
		default:
			values[s.flag] = []string{value}
		}
	}
	return values
}

// override sets what one place says; origin names the place in errors.
func override(values map[string][]string, origin func(flag string) string) configyaml.Override {
	return func(b *configv1.Bootstrap) (map[string]string, error) {
		registries := slices.DeleteFunc(slices.Clone(registrySettings), func(flag string) bool { return values[flag] == nil })
		if len(registries) > 1 {
			return nil, fmt.Errorf("%s and %s exclude each other: give one", origin(registries[0]), origin(registries[1]))
		}
		origins := map[string]string{}
		for _, s := range settings {
			if values[s.flag] == nil {
				continue
			}
			field, err := s.set(b, values[s.flag])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", origin(s.flag), err)
			}
			origins[field] = origin(s.flag)
		}
		return origins, nil
	}
}

// text returns the setter of a single text.
func text(path string, field func(*configv1.Bootstrap) *string) func(*configv1.Bootstrap, []string) (string, error) {
	return func(b *configv1.Bootstrap, values []string) (string, error) {
		if values[0] == "" {
			return "", errors.New("is empty: give a value")
		}
		*field(b) = values[0]
		return path, nil
	}
}

func setService(b *configv1.Bootstrap, values []string) (string, error) {
	name, where, ok := strings.Cut(values[0], "=")
	if !ok || name == "" || where == "" {
		return "", fmt.Errorf("%q is not of the form NAME=PORT or NAME=ADDRESS, such as greeter=50051", values[0])
	}
	if !strings.Contains(where, ":") {
		where = "127.0.0.1:" + where
	}
	service := made(&b.Service)
	service.Name, service.Port, service.Address = name, nil, where
	return "service", nil
}

func setUpstreams(b *configv1.Bootstrap, values []string) (string, error) {
	upstreams := map[string]*configv1.StaticUpstream{}
	for _, value := range values {
		name, addresses, ok := strings.Cut(strings.TrimSpace(value), "=")
		if !ok || name == "" || addresses == "" {
			return "", fmt.Errorf("%q is not of the form NAME=ADDRESS,ADDRESS, such as greeter=127.0.0.1:50051", value)
		}
		if upstreams[name] == nil {
			upstreams[name] = &configv1.StaticUpstream{}
		}
		for address := range strings.SplitSeq(addresses, ",") {
			upstreams[name].Addresses = append(upstreams[name].Addresses, strings.TrimSpace(address))
		}
	}
	b.Registry = &configv1.Registry{Source: &configv1.Registry_Static{Static: &configv1.StaticRegistry{Upstreams: upstreams}}}
	return "registry", nil
}

func setFile(b *configv1.Bootstrap, values []string) (string, error) {
	b.Registry = &configv1.Registry{Source: &configv1.Registry_File{File: &configv1.FileRegistry{Path: values[0]}}}
	return "registry", nil
}

// setConsul leaves what else the file says of Consul.
func setConsul(b *configv1.Bootstrap, values []string) (string, error) {
	consul := b.GetRegistry().GetConsul()
	if consul == nil {
		consul = &configv1.ConsulRegistry{}
		b.Registry = &configv1.Registry{Source: &configv1.Registry_Consul{Consul: consul}}
	}
	consul.Address = values[0]
	return "registry.consul.address", nil
}

// setControl leaves what else the file says of control.
func setControl(b *configv1.Bootstrap, values []string) (string, error) {
	switch values[0] {
	case "":
		return "", errors.New("is empty: give consul, or a folder")
	case inConsul:
		made(&b.Control).Dir = ""
	default:
		made(&b.Control).Dir = values[0]
	}
	return "control", nil
}

func setDrainTimeout(b *configv1.Bootstrap, values []string) (string, error) {
	d, err := time.ParseDuration(values[0])
	if err != nil {
		return "", fmt.Errorf(`%q is not a duration, such as "30s"`, values[0])
	}
	made(&b.Drain).Timeout = durationpb.New(d)
	return "drain.timeout", nil
}

// made returns the message that a field holds, made if there is none.
func made[T any](field **T) *T {
	if *field == nil {
		*field = new(T)
	}
	return *field
}
