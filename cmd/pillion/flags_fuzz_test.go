package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/proto/configyaml"
)

// FuzzFlags gives any flags and variables, a line each: what is wrong is told in a
// line for each problem, which says where it comes from; what is right is a
// configuration that stays right.
func FuzzFlags(f *testing.F) {
	f.Add("--outbound\n127.0.0.1:1\n--upstream\ngreeter=127.0.0.1:50051, b:2", "")
	f.Add("--inbound\nunix:///in\n--service\ngreeter=50051", "PILLION_UPSTREAM=a=b:1;c=d:2\nPILLION_LOG_LEVEL=warn")
	f.Add("--consul\nhttps://u:p@x:8501\n--drain-timeout\n-1h", "PILLION_FILE=x")
	f.Add("--upstream\n=\n--upstream\n=a,\n--service\n=\x00", "PILLION_UPSTREAM=;;;\nPILLION_ADMIN=\u2028")
	f.Fuzz(func(t *testing.T, args, env string) {
		variables := map[string]string{}
		for e := range strings.SplitSeq(env, "\n") {
			name, value, _ := strings.Cut(e, "=")
			if name != variable(configFlag) { // reads a file
				variables[name] = value
			}
		}
		cmd := &cobra.Command{}
		addBootstrapFlags(cmd)
		if cmd.ParseFlags(strings.Split(args, "\n")) != nil || configPath(cmd.Flags(), func(string) string { return "" }) != "" {
			return
		}
		b, err := readBootstrap(cmd.Flags(), func(name string) string { return variables[name] })
		if err == nil {
			if again := configyaml.Effective(b); !proto.Equal(again, b) {
				t.Fatalf("filling in the defaults again changed %v to %v", b, again)
			}
			if err := configyaml.CheckBootstrap(b); err != nil {
				t.Fatalf("what was read is refused: %v", err)
			}
			return
		}
		problems, ok := errors.AsType[configyaml.Problems](err)
		if !ok {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Fatalf("more than one line: %q", err)
			}
			return
		}
		for _, p := range problems {
			if p.File != "" || p.Message == "" || strings.ContainsAny(p.Error(), "\n\r") {
				t.Errorf("%+v", p)
			}
		}
	})
}
