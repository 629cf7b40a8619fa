package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func newCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check a configuration without running it",
		Long: `Check a bootstrap, with the same flags and variables as run, and the mesh file
that it points to. Each problem is a line with file, line, column and field.`,
		Example: "  pillion check -c pillion.yaml",
		Args:    noArguments,
		RunE:    check,
	}
	addBootstrapFlags(cmd)
	return cmd
}

func check(cmd *cobra.Command, _ []string) error {
	b, err := bootstrapFrom(cmd)
	if err != nil {
		return err
	}
	if err := checkFiles(b); err != nil {
		return err
	}
	found, err := checkSource(cmd, b)
	if err != nil {
		return err
	}
	what := []string{configPath(cmd.Flags(), os.Getenv)}
	if what[0] == "" {
		what[0] = "flags and variables"
	}
	if found != "" {
		what = append(what, found)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "ok: %s\n", strings.Join(what, ", "))
	return err
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

// checkSource checks what the registry names and says what it found there.
func checkSource(cmd *cobra.Command, b *configv1.Bootstrap) (string, error) {
	path := b.GetRegistry().GetFile().GetPath()
	if path == "" {
		return "", nil
	}
	mesh, err := configyaml.ReadMesh(path, int64(b.GetRegistry().GetFile().GetMaxSize()))
	if err != nil {
		return "", err
	}
	endpoints := 0
	for _, service := range mesh.GetServices() {
		endpoints += len(service.GetEndpoints())
	}
	// No error: the mesh file may change at any time, the bootstrap does not.
	if name := b.GetOutbound().GetDefaultService(); name != "" && mesh.GetServices()[name] == nil {
		_, err = fmt.Fprintf(cmd.ErrOrStderr(), "pillion: warning: outbound.default_service: %q is not in %s: RPCs that name no service will fail\n", name, path)
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%s (%d services, %d endpoints)", path, len(mesh.GetServices()), endpoints), nil
}
