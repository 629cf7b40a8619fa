package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/user"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/dirkv"
	"github.com/pillion-proxy/pillion/registry/consul"
)

// inConsul is what --control says where the documents of the mesh are in Consul's KV;
// all else is a folder.
const inConsul = "consul"

// The flags that commands have which work on the documents of the mesh.
const (
	controlFlag   = "control"
	consulFlag    = "consul"
	tokenFileFlag = "token-file"
	authorFlag    = "author"
	messageFlag   = "message"
)

// addStoreFlags gives a command the flags that openStore reads.
func addStoreFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.String(controlFlag, cmp.Or(os.Getenv(variable(controlFlag)), inConsul),
		usage("where the documents of the mesh are: `consul|FOLDER`", controlFlag))
	flags.String(consulFlag, os.Getenv(variable(consulFlag)),
		usage("ask Consul's agent at this `ADDRESS`; without, what Consul's own variables say", consulFlag))
	flags.String(tokenFileFlag, "",
		"the `FILE` with the ACL token for Consul; without, what Consul's own variables say")
	_ = cmd.MarkFlagFilename(tokenFileFlag)
	_ = cmd.RegisterFlagCompletionFunc(controlFlag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{inConsul}, cobra.ShellCompDirectiveDefault
	})
	_ = cmd.RegisterFlagCompletionFunc(consulFlag, cobra.NoFileCompletions)
}

// openStore opens the store that a command's flags (see addStoreFlags) and the
// environment name.
func openStore(cmd *cobra.Command) (kv.Store, error) {
	where, _ := cmd.Flags().GetString(controlFlag)
	if where == inConsul {
		store, err := openConsulStore(cmd)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(cmd.Context(), store.CloseIdleConnections)
		return store, nil
	}
	for _, flag := range []string{consulFlag, tokenFileFlag} {
		if cmd.Flags().Changed(flag) {
			return nil, fmt.Errorf("--%s is for Consul, but --%s says the folder %s: give one", flag, controlFlag, where)
		}
	}
	_, missing := os.Stat(where)
	if missing != nil && cmd.Name() != applyCommand {
		// A store that is made because its name is mistyped is empty, which would be believed.
		return nil, fmt.Errorf("--%s: there is no folder %s: pillion apply makes it", controlFlag, where)
	}
	store, err := dirkv.Open(where, dirkv.Options{})
	if err == nil && missing != nil {
		warn(cmd, []string{fmt.Sprintf("--%s: there was no folder %s yet: sidecars follow it where their control.dir names it", controlFlag, where)})
	}
	return store, err
}

// openConsulStore opens Consul's KV. What flags do not say is taken from Consul's
// variables.
func openConsulStore(cmd *cobra.Command) (*consul.Store, error) {
	var cfg consul.Config
	cfg.Address, _ = cmd.Flags().GetString(consulFlag)
	cfg.TokenFile, _ = cmd.Flags().GetString(tokenFileFlag)
	if cfg.TokenFile != "" {
		// Without a token the answer would be that something is denied, and not why.
		f, err := os.Open(cfg.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", tokenFileFlag, err)
		}
		_ = f.Close()
	}
	return consul.NewStore(cfg, consul.Deps{})
}

// addAuthorFlags gives a command that changes something the flags that author and
// message read.
func addAuthorFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.String(authorFlag, os.Getenv(variable(authorFlag)), usage("the `NAME` of who changes this, for the history; without, user@host", authorFlag))
	flags.StringP(messageFlag, "m", "", "why, a `TEXT` for the history")
	_ = cmd.RegisterFlagCompletionFunc(authorFlag, cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc(messageFlag, cobra.NoFileCompletions)
}

// author is who a command (see addAuthorFlags) acts for, as they say; it proves nothing.
func author(cmd *cobra.Command) string {
	given, _ := cmd.Flags().GetString(authorFlag)
	if given = strings.Join(strings.Fields(given), " "); given != "" {
		return given
	}
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = cmp.Or(u.Username, u.Uid, name)
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}

// message is why a command (see addAuthorFlags) is given.
func message(cmd *cobra.Command) string {
	given, _ := cmd.Flags().GetString(messageFlag)
	return strings.TrimSpace(given)
}
