package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func newCheckCommand() *cobra.Command {
	var policies []string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check a configuration without running it",
		Long: `Check a bootstrap, with the same flags and variables as run, and the mesh file and
the policies that it points to; or, with --policies, policies alone, or documents for
pillion apply. Each problem is a
line with file, line, column and field. All policies are checked as one set: one that is
wrong has the whole refused. What is in order but can hardly be meant, such as a rule
that can never match, is a warning.`,
		Example: "  pillion check -c pillion.yaml\n  pillion check -f policies.yaml",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(policies) > 0 {
				if cmd.Flags().Changed(configFlag) {
					return errors.New("--policies and --config exclude each other: the bootstrap names its policies itself")
				}
				return checkPolicies(cmd, policies)
			}
			return check(cmd)
		},
	}
	addBootstrapFlags(cmd)
	addPoliciesFlag(cmd, &policies, "check the policies of this file or folder alone, without a bootstrap; may be repeated")
	return cmd
}

// addPoliciesFlag gives a command the flag that names files of policies.
func addPoliciesFlag(cmd *cobra.Command, policies *[]string, usage string) {
	cmd.Flags().StringArrayVarP(policies, "policies", "f", nil, strings.Replace(usage, "file or folder", "`FILE|FOLDER`", 1))
	_ = cmd.MarkFlagFilename("policies", "yaml", "yml")
}

func check(cmd *cobra.Command) error {
	b, err := bootstrapFrom(cmd)
	if err != nil {
		return err
	}
	if err := checkFiles(b); err != nil {
		return err
	}
	p, err := bootstrapPolicies(b)
	if err == nil {
		_, err = p.compile()
	}
	if err != nil {
		return err
	}
	warnDefaultService(cmd, b, p)
	warn(cmd, p.warnings(p.known()))
	what := []string{configPath(cmd.Flags(), os.Getenv)}
	if what[0] == "" {
		what[0] = "flags and variables"
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "ok: %s\n", strings.Join(append(what, found(p)...), ", "))
	return err
}

// checkPolicies checks policies alone.
func checkPolicies(cmd *cobra.Command, paths []string) error {
	p, err := readPolicyFiles(paths, configyaml.DefaultMeshSize)
	if err == nil {
		_, err = p.compile()
	}
	if err != nil {
		return err
	}
	warn(cmd, p.warnings(p.known()))
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "ok: %s\n", strings.Join(found(p), ", "))
	return err
}

// found says what files hold.
func found(p *policyFiles) (what []string) {
	for _, f := range p.files {
		var of []string
		if services := f.Mesh.GetServices(); services != nil || len(f.Mesh.GetPolicies()) == 0 && f.Documents == nil {
			endpoints := 0
			for _, service := range services {
				endpoints += len(service.GetEndpoints())
			}
			of = append(of, fmt.Sprintf("%d services", len(services)), fmt.Sprintf("%d endpoints", endpoints))
		}
		if n := len(f.Mesh.GetPolicies()); n > 0 {
			of = append(of, fmt.Sprintf("%d policies", n))
		}
		if f.Documents != nil {
			of = append(of, fmt.Sprintf("%d canaries", len(f.Documents.Effective.GetCanaries())), fmt.Sprintf("%d experiments", len(f.Documents.Effective.GetExperiments())))
		}
		what = append(what, fmt.Sprintf("%s (%s)", f.Path, strings.Join(of, ", ")))
	}
	return what
}

// warn prints a warning for each line.
func warn(cmd *cobra.Command, lines []string) {
	for _, line := range lines {
		// Where standard error is closed there is nobody left to tell.
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "pillion: warning: %s\n", line)
	}
}

// warnDefaultService warns of a default destination that the mesh file does not have.
// It is no error: the mesh file may change at any time, the bootstrap does not.
func warnDefaultService(cmd *cobra.Command, b *configv1.Bootstrap, p *policyFiles) {
	path := b.GetRegistry().GetFile().GetPath()
	if name := b.GetOutbound().GetDefaultService(); path != "" && name != "" && p.services[name] == nil {
		warn(cmd, []string{fmt.Sprintf("outbound.default_service: %q is not in %s: RPCs that name no service will fail", name, path)})
	}
}

// checkFiles checks that the files and folders that are named can be used.
func checkFiles(b *configv1.Bootstrap) error {
	if path := b.GetRegistry().GetConsul().GetTokenFile(); path != "" {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("registry.consul.token_file: %w", err)
		}
		_ = f.Close()
	}
	if path := b.GetAccessLog().GetPath(); path != "" && !configyaml.IsStandardStream(path) {
		if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
			return fmt.Errorf("access_log.path: %s: its folder does not exist: make it", path)
		}
	}
	return nil
}
