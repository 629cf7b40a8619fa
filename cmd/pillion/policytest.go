package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/cmd/pillion/explain"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func newTestCommand() *cobra.Command {
	var verbose bool
	var policies []string
	cmd := &cobra.Command{
		Use:   "test FILE...",
		Short: "Test policies against what is expected of them",
		Long: `Test policies against expectations: each file names policies and RPCs, and says for
each RPC where it is to go, how long it may take, whether it is retried and so on. The
policies are checked first, as pillion check does. Nothing is sent.`,
		Example: "  pillion test policy_test.yaml",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("no file is given, such as: pillion test policy_test.yaml")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			t := policyTests{out: cmd.OutOrStdout(), verbose: verbose, instead: policies}
			for _, path := range args {
				if err := t.run(cmd, path); err != nil {
					return err
				}
			}
			return t.end()
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "say what became of each RPC")
	addPoliciesFlag(cmd, &policies, "test the policies of this file or folder instead of those that the files name; may be repeated")
	return cmd
}

// policyTests runs the cases of files.
type policyTests struct {
	out            io.Writer
	verbose        bool
	instead        []string
	passed, failed int
}

func (t *policyTests) run(cmd *cobra.Command, path string) error {
	test, err := configyaml.ReadPolicyTest(path)
	if err != nil {
		return err
	}
	paths := t.instead
	if len(paths) == 0 {
		for _, p := range test.Test.GetPolicies() {
			if !filepath.IsAbs(p) {
				p = filepath.Join(filepath.Dir(path), p)
			}
			paths = append(paths, p)
		}
	}
	p, err := readPolicyFiles(paths, configyaml.DefaultMeshSize)
	if err != nil {
		return err
	}
	set, err := p.compile()
	if err != nil {
		return err
	}
	w := filesWorld(set, p, nil)
	w.Cluster, w.Place, w.Locate = nil, nil, nil // no case is about instances or lines
	for i, c := range test.Test.GetCases() {
		r, err := runCase(cmd.Context(), w, c)
		if err != nil {
			return fmt.Errorf("%s: %w", test.Locate(fmt.Sprintf("cases[%d]", i)), err)
		}
		t.report(test.Place(fmt.Sprintf("cases[%d]", i)), caseName(c), r)
	}
	return nil
}

func caseName(c *configv1.PolicyCase) string {
	if c.GetName() != "" {
		return c.GetName()
	}
	return c.GetService() + " " + strings.TrimPrefix(c.GetMethod(), "/")
}

// report prints what became of a case.
func (t *policyTests) report(place, name string, r *caseResult) {
	verdict := "ok  "
	if len(r.problems) > 0 {
		verdict = "FAIL"
		t.failed++
	} else {
		t.passed++
	}
	fmt.Fprintf(t.out, "%s  %s (%s)\n", verdict, name, place)
	for _, problem := range r.problems {
		fmt.Fprintf(t.out, "      %s\n", problem)
	}
	if len(r.problems) == 0 && !t.verbose {
		return
	}
	for _, line := range shortForm(r.answer) {
		fmt.Fprintf(t.out, "      | %s\n", line)
	}
}

func (t *policyTests) end() error {
	if t.failed > 0 {
		return fmt.Errorf("%d of %d cases failed", t.failed, t.failed+t.passed)
	}
	_, err := fmt.Fprintf(t.out, "ok: %d cases\n", t.passed)
	return err
}

// shortForm is an explanation in a few lines.
func shortForm(e *adminv1.ExplainResponse) (lines []string) {
	for _, r := range e.GetRules() {
		switch {
		case r.GetDecided():
			lines = append(lines, fmt.Sprintf("rule %s/%s decides", r.GetPolicy(), r.GetRule()))
		case r.GetMatched() && len(e.GetRules()) <= 10:
			lines = append(lines, fmt.Sprintf("rule %s/%s matches: %s", r.GetPolicy(), r.GetRule(), r.GetWhy()))
		case len(e.GetRules()) <= 10:
			lines = append(lines, fmt.Sprintf("rule %s/%s does not: %s", r.GetPolicy(), r.GetRule(), r.GetWhy()))
		}
	}
	if s := e.GetSplit(); s != nil {
		text := "split " + s.GetWhy()
		if s.Bucket != nil {
			text += fmt.Sprintf(": bucket %d", s.GetBucket())
		}
		lines = append(lines, text)
	}
	for _, f := range e.GetInForce() {
		if f.GetPolicy() != "" && f.GetKind() != "route" {
			lines = append(lines, fmt.Sprintf("%s of policy %s: %s", f.GetKind(), f.GetPolicy(), f.GetSays()))
		}
	}
	for _, o := range e.GetOutcomes() {
		text := "goes to " + explain.Destination(o)
		if o.GetStatus() != "" {
			text = "is answered " + explain.Destination(o)
		}
		if len(e.GetOutcomes()) > 1 {
			text += fmt.Sprintf(" (%.4g %%)", o.GetShare()*100)
		}
		lines = append(lines, text)
		for _, s := range o.GetSplits() {
			lines = append(lines, "split "+explain.Split(s))
		}
		if a := o.GetAccess(); a != nil {
			lines = append(lines, explain.Access(a))
		}
	}
	return lines
}

// requestOf is the RPC of a case.
func requestOf(c *configv1.PolicyCase) *adminv1.ExplainRequest {
	request := &adminv1.ExplainRequest{Authority: c.GetService(), Method: c.GetMethod(), Caller: c.GetCaller(), From: c.GetFrom()}
	for _, key := range slices.Sorted(maps.Keys(c.GetMetadata())) {
		request.Metadata = append(request.Metadata, &adminv1.Metadata{Key: key, Value: c.GetMetadata()[key]})
	}
	return request
}
