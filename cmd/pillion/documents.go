package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/canary"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/experiment"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// documentCommands are those that work on the documents of the mesh.
func documentCommands() []*cobra.Command {
	return []*cobra.Command{
		newApplyCommand(), newGetCommand(), newDiffCommand(), newHistoryCommand(), newRollbackCommand(), newDeleteCommand(),
	}
}

// openDocuments opens the documents in the store that a command's flags name.
func openDocuments(cmd *cobra.Command) (*documents.Documents, error) {
	store, err := openStore(cmd)
	if err != nil {
		return nil, err
	}
	return documents.New(store, documents.Options{Made: madePolicy}), nil
}

// half is a share, in 1/10,000, for canaries of which only the form is looked at.
const half = 5000

// madePolicy is the policy that a canary or an experiment comes to while it runs.
func madePolicy(d *controlv1.Document) *configv1.Policy {
	switch {
	case d.GetCanary() != nil:
		return canary.Policy(d.GetCanary(), half)
	case d.GetExperiment() != nil:
		return experiment.Policy(d.GetExperiment())
	}
	return nil
}

// documentFiles are documents as files have them, each good by itself.
type documentFiles struct {
	list  []*controlv1.Document
	where map[documents.ID]documentPlace
}

// documentPlace is where a document was read.
type documentPlace struct {
	file  *configyaml.DocumentsFile
	field string // of the file
}

// readDocumentFiles reads files, and all files of folders; "-" is standard input. The
// error has a line for each problem.
func readDocumentFiles(paths []string, stdin io.Reader) (*documentFiles, error) {
	if len(paths) == 0 {
		return nil, errors.New("no file is given: write -f FILE, -f FOLDER, or -f - for standard input")
	}
	d := &documentFiles{where: map[documents.ID]documentPlace{}}
	defer configyaml.HoldRules()()
	var errs []error
	for _, path := range paths {
		if path == "-" {
			data, err := io.ReadAll(io.LimitReader(stdin, configyaml.DefaultMeshSize+1))
			if err == nil && len(data) > configyaml.DefaultMeshSize {
				err = fmt.Errorf("standard input is longer than %d bytes, which is the most that is read", configyaml.DefaultMeshSize)
			}
			var f *configyaml.DocumentsFile
			if err == nil {
				f, err = configyaml.ParseDocuments("-", data)
			}
			if err == nil {
				err = d.add(f)
			}
			errs = append(errs, err)
			continue
		}
		files, err := configyaml.PolicyPaths(path)
		errs = append(errs, err)
		for _, file := range files {
			f, err := configyaml.ReadDocuments(file, configyaml.DefaultMeshSize)
			if err == nil {
				err = d.add(f)
			}
			errs = append(errs, err)
		}
	}
	return d, errors.Join(errs...)
}

// add takes the documents of a further file.
func (d *documentFiles) add(f *configyaml.DocumentsFile) error {
	var errs []error
	counts := map[control.Kind]int{}
	for _, one := range documents.Of(f.Written) {
		id, _ := documents.IDOf(one)
		place := documentPlace{f, fmt.Sprintf("%s[%d]", documents.Plural(id.Kind), counts[id.Kind])}
		counts[id.Kind]++
		taken := false
		for _, kind := range control.Kinds {
			if other, is := d.where[documents.ID{Kind: kind, Name: id.Name}]; is {
				taken = true
				errs = append(errs, nameIsTaken(place.locate("name"), other.file.Path))
			}
		}
		if !taken {
			d.where[id] = place
			d.list = append(d.list, one)
		}
	}
	return errors.Join(errs...)
}

// locate returns "file:line:column: field" of a field below the document.
func (p documentPlace) locate(below string) string {
	if below != "" {
		below = "." + below
	}
	return p.file.Locate(p.field + below)
}

// located is an error of applying the files, with the lines that it is about.
func (d *documentFiles) located(err error) error {
	refused, is := errors.AsType[*documents.RefusedError](err)
	if !is {
		return err
	}
	var errs []error
	for i, r := range refused.Refusals {
		if i == maxLines {
			errs = append(errs, fmt.Errorf("and %d more problems", len(refused.Refusals)-i))
			break
		}
		if place, known := d.where[r.ID]; known {
			errs = append(errs, fmt.Errorf("%s: %s", place.locate(r.Field), r.Message))
		} else {
			errs = append(errs, r)
		}
	}
	return errors.Join(errs...)
}

// addFileFlag gives a command the flag that names files of documents.
func addFileFlag(cmd *cobra.Command, to *[]string) {
	cmd.Flags().StringArrayVarP(to, "file", "f", nil, "read documents from this `FILE|FOLDER`, - for standard input; may be repeated")
	_ = cmd.MarkFlagFilename("file", "yaml", "yml")
}

// oneDocument takes the one argument KIND/NAME.
func oneDocument(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%d arguments are given, but one document is wanted, such as: %s policy/checkout-routes", len(args), cmd.CommandPath())
	}
	_, err := documents.ParseID(args[0])
	return err
}

// documentPatience is how long completion waits for the store.
const documentPatience = time.Second

// completeDocuments offers kinds, and names once the kind is there.
func completeDocuments(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	kind, _, named := strings.Cut(typed, "/")
	if !named {
		var kinds []string
		for _, k := range control.Kinds {
			kinds = append(kinds, string(k)+"/")
		}
		return kinds, directive
	}
	k, err := documents.ParseKind(kind)
	if err != nil {
		return nil, directive
	}
	return documentNames(cmd, k, kind+"/"), cobra.ShellCompDirectiveNoFileComp
}

// documentNames returns the names of all documents of a kind, behind a prefix, to complete
// what is typed; none where the store does not answer.
func documentNames(cmd *cobra.Command, kind control.Kind, prefix string) (names []string) {
	d, err := openDocuments(cmd)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), documentPatience)
	defer cancel()
	state, err := d.Load(ctx)
	if err != nil {
		return nil
	}
	for _, one := range state.All {
		if one.ID.Kind == kind {
			names = append(names, prefix+one.ID.Name)
		}
	}
	return names
}

// printResult says what has become of documents, or, in a dry run, would.
func printResult(cmd *cobra.Command, result *documents.Result, dry bool) {
	out := cmd.OutOrStdout()
	r := lipgloss.NewRenderer(out)
	for _, c := range result.Changes {
		verb, colour := c.Verb(), "2"
		switch {
		case c.After == nil:
			colour = "1"
		case c.Before != nil:
			colour = "3"
		}
		if dry {
			verb = "would be " + verb
		}
		_, _ = fmt.Fprintf(out, "%s %s (revision %d)\n", c.ID, r.NewStyle().Foreground(lipgloss.Color(colour)).Render(verb), c.Revision)
	}
	warn(cmd, result.Warnings)
}
