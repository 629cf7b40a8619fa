package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/charmbracelet/lipgloss"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// The forms of documents that commands show.
const (
	formTable = "table"
	formYAML  = "yaml"
	formJSON  = "json"
)

func newGetCommand() *cobra.Command {
	var (
		output, service string
		revision        uint64
	)
	cmd := &cobra.Command{
		Use:   "get [KIND] [NAME]",
		Short: "Show the documents of the mesh",
		Long: `Show the policies, canaries and experiments in the mesh's store: all, those of a KIND
(policy, canary, experiment), or one, as KIND NAME or KIND/NAME.

As YAML they can be applied again. As JSON each comes with its revision, author, time and
message. How far sidecars obey them is what pillion status shows.`,
		Example: `  pillion get
  pillion get canaries --service checkout
  pillion get policy/checkout-routes -o yaml
  pillion get policy/checkout-routes --revision 3 -o yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			_, _, err := selection(args)
			return err
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 && !strings.Contains(typed, "/") {
				return []string{"policies", "canaries", "experiments", "policy/", "canary/", "experiment/"}, cobra.ShellCompDirectiveNoFileComp
			}
			return completeDocuments(cmd, args, typed)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, name, _ := selection(args)
			if output != formTable && output != formYAML && output != formJSON {
				return fmt.Errorf("--output: %q is not known: use table, yaml or json", output)
			}
			if revision != 0 && name == "" {
				return errors.New("--revision is for one document: name it, such as policy/checkout-routes")
			}
			d, err := openDocuments(cmd)
			if err != nil {
				return err
			}
			if revision != 0 {
				id := documents.ID{Kind: kind, Name: name}
				r, err := d.At(cmd.Context(), id, revision)
				if err != nil {
					return err
				}
				return showDocuments(cmd, []*documents.Stored{{ID: id, Document: r.Document, Problem: r.Problem, Service: serviceOf(r.Document)}}, output)
			}
			state, err := d.Load(cmd.Context())
			if err != nil {
				return err
			}
			var list []*documents.Stored
			for _, one := range state.All {
				if (kind == "" || one.ID.Kind == kind) && (name == "" || one.ID.Name == name) && (service == "" || one.Service == service) {
					list = append(list, one)
				}
			}
			if name != "" && len(list) == 0 {
				return fmt.Errorf("%s/%s: there is no such document: pillion get shows all, pillion history those that were deleted", kind, name)
			}
			if len(list) == 0 && output == formTable {
				_, err := io.WriteString(cmd.OutOrStdout(), nothingLike(kind, service))
				return err
			}
			return showDocuments(cmd, list, output)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&output, "output", "o", formTable, "the `FORM` of what is shown: table, yaml or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{formTable, formYAML, formJSON}, cobra.ShellCompDirectiveNoFileComp))
	flags.StringVar(&service, "service", "", "only those for the service of this `NAME`")
	_ = cmd.RegisterFlagCompletionFunc("service", cobra.NoFileCompletions)
	flags.Uint64Var(&revision, "revision", 0, "this revision of the document, a `NUMBER`, instead of the newest")
	_ = cmd.RegisterFlagCompletionFunc("revision", cobra.NoFileCompletions)
	addStoreFlags(cmd)
	return cmd
}

// nothingLike says that there are no documents such as are asked for.
func nothingLike(kind control.Kind, service string) string {
	text := "there are no documents"
	if kind != "" {
		text = "there are no " + documents.Plural(kind)
	}
	if service != "" {
		text += " for the service " + documents.Printable(service)
	}
	return text + "\n"
}

// selection reads what documents are asked for. Without a name it is all of a kind,
// without a kind all.
func selection(args []string) (kind control.Kind, name string, err error) {
	switch {
	case len(args) == 0:
		return "", "", nil
	case len(args) == 1 && strings.Contains(args[0], "/"):
		id, err := documents.ParseID(args[0])
		return id.Kind, id.Name, err
	case len(args) > 2:
		return "", "", fmt.Errorf("%d arguments are given, but a kind and a name are wanted at most", len(args))
	case len(args) == 2:
		name = args[1]
	}
	kind, err = documents.ParseKind(args[0])
	return kind, name, err
}

func serviceOf(d *controlv1.Document) string {
	_, service := documents.IDOf(d)
	return service
}

// showDocuments prints documents in a form. Those that cannot be read are warned of
// where the form cannot show them.
func showDocuments(cmd *cobra.Command, list []*documents.Stored, form string) error {
	if form == formTable {
		_, err := io.WriteString(cmd.OutOrStdout(), documentsTable(cmd.OutOrStdout(), list))
		return err
	}
	var good []*controlv1.Document
	for _, one := range list {
		if one.Problem != nil {
			warn(cmd, []string{fmt.Sprintf("%s: is left out: %v", one.ID, one.Problem)})
			continue
		}
		good = append(good, one.Document)
	}
	if form == formJSON {
		return writeDocuments(cmd.OutOrStdout(), good)
	}
	text, err := documents.YAML(documents.Collect(good))
	if err != nil {
		return err
	}
	_, err = io.WriteString(cmd.OutOrStdout(), text)
	return err
}

// writeDocuments writes documents as JSON, with their revisions.
func writeDocuments(out io.Writer, list []*controlv1.Document) error {
	all := struct {
		Documents []json.RawMessage `json:"documents"`
	}{Documents: []json.RawMessage{}}
	for _, d := range list {
		raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(d)
		if err != nil {
			return err
		}
		all.Documents = append(all.Documents, raw)
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text) // and protojson's odd blanks are gone
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(all); err != nil {
		return err
	}
	_, err := out.Write(text.Bytes())
	return err
}

// documentsTable lays documents out for people.
func documentsTable(out io.Writer, list []*documents.Stored) string {
	r := lipgloss.NewRenderer(out)
	bad := r.NewStyle().Foreground(lipgloss.Color("1"))
	rows := plainTable(r, "DOCUMENT", "SAYS", "SERVICE", "REVISION", "CHANGED", "BY", "MESSAGE")
	var problems strings.Builder
	for _, one := range list {
		d := one.Document
		rows.Row(one.ID.String(), says(d), documents.Printable(one.Service), strconv.FormatUint(d.GetRevision(), 10), at(d.GetTime()),
			documents.Printable(d.GetAuthor()), shortened(documents.Printable(d.GetMessage())))
		if one.Problem != nil {
			fmt.Fprintf(&problems, "%s\n", bad.Render(fmt.Sprintf("%s: %v", one.ID, one.Problem)))
		}
	}
	return rendered(rows) + problems.String()
}

// says is what a document is about, in a few words.
func says(d *controlv1.Document) string {
	switch {
	case d.GetPolicy() != nil:
		m := d.GetPolicy().ProtoReflect()
		if kind := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind")); kind != nil {
			return strings.ReplaceAll(string(kind.Name()), "_", " ")
		}
	case d.GetCanary() != nil:
		c := d.GetCanary()
		return fmt.Sprintf("%s to %s in %d steps", documents.Printable(c.GetStable()), documents.Printable(c.GetCanary()), len(c.GetSteps()))
	case d.GetExperiment() != nil:
		return fmt.Sprintf("%d variants", len(d.GetExperiment().GetVariants()))
	}
	return "-"
}

// shortened is a text that fits into a table.
func shortened(text string) string {
	const most = 60
	if letters := []rune(text); len(letters) > most {
		return string(letters[:most-1]) + "…"
	}
	return text
}
