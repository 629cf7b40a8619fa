package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/server"
)

// version is set by the linker where a release is built.
var version string

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which Pillion this is",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := build()
			revision := ""
			if b.Revision != "" {
				revision = "commit " + b.Revision + ", "
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "pillion %s (%s%s, %s/%s)\n",
				b.Version, revision, b.Go, runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// build says which Pillion this is, by the linker or else by what Go noted
// in the binary.
func build() server.Build {
	b := server.Build{Version: version, Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	if b.Version == "" {
		b.Version = "(devel)"
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			b.Revision = setting.Value
		}
	}
	return b
}
