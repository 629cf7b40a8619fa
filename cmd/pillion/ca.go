package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/dev"
)

func newCACommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Make certificates for development",
		Long: `Make a certificate authority in a folder, and certificates that it signs: for first
steps and tests. It is not for production: whoever can read the CA's key can be
anybody in its trust domain, and nothing renews what is issued here.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
		Args:                       cobra.ArbitraryArgs,
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(newCAInitCommand(), newCAIssueCommand())
	return cmd
}

func newCAInitCommand() *cobra.Command {
	var trustDomain string
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Make a CA for development in a folder",
		Long: `Make a certificate authority in a folder, for development: its certificate,
` + dev.RootsFile + `, and its key, ` + dev.KeyFile + `. Sidecars that have the folder sign their own
certificates with it; others get theirs by pillion ca issue. No CA is overwritten.`,
		Example: `  pillion ca init ca
  pillion ca init ca --trust-domain dev.example.org`,
		Args: oneFolder,
		RunE: func(cmd *cobra.Command, args []string) error {
			td, err := parseTrustDomain(trustDomain)
			if err != nil {
				return err
			}
			ca, err := dev.Create(args[0], td)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), `CA for development, of the trust domain %s, until %s.
Keep %s secret: who can read it can be anybody. In pillion.yaml:

identity:
  dev: {ca: %q}
`, td.Name(), ca.Root().NotAfter.UTC().Format(time.DateOnly), filepath.Join(args[0], dev.KeyFile), args[0])
			return err
		},
	}
	cmd.Flags().StringVar(&trustDomain, "trust-domain", "example.org", "the trust domain of all that the CA issues")
	return cmd
}

// parseTrustDomain reads a trust domain's bare name.
func parseTrustDomain(name string) (spiffeid.TrustDomain, error) {
	id, err := identity.ParseID("spiffe://" + name)
	if err == nil && id.Path() != "" {
		err = errors.New("it has a path")
	}
	if err != nil {
		return spiffeid.TrustDomain{}, fmt.Errorf("--trust-domain %q: %w", name, err)
	}
	return id.TrustDomain(), nil
}

func newCAIssueCommand() *cobra.Command {
	var r caRequest
	cmd := &cobra.Command{
		Use:   "issue DIR",
		Short: "Issue a certificate for development",
		Long: `Issue a certificate for development, by the CA that pillion ca init has made in a
folder. It is written to NAME.pem and its key to NAME-key.pem, where NAME is the last
part of the SPIFFE ID. Nothing renews it but this command, with --overwrite: sidecars
that read the files take the new ones without a restart.`,
		Example: `  pillion ca issue ca --service web
  pillion ca issue ca --id spiffe://example.org/svc/web --ttl 1h --out certificates`,
		Args: oneFolder,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.folder = args[0]
			return r.run(cmd)
		},
	}
	cmd.Flags().StringVar(&r.id, "id", "", "the SPIFFE ID")
	cmd.Flags().StringVar(&r.service, "service", "", "the service, for the SPIFFE ID spiffe://TRUST DOMAIN/svc/SERVICE")
	cmd.Flags().DurationVar(&r.ttl, "ttl", dev.DefaultTTL, "how long the certificate is valid")
	cmd.Flags().StringVar(&r.out, "out", ".", "the folder to write it to")
	cmd.Flags().BoolVar(&r.overwrite, "overwrite", false, "replace the files of an earlier certificate")
	return cmd
}

// oneFolder wants the CA's folder.
func oneFolder(cmd *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return fmt.Errorf("no folder is given, such as: %s ca", cmd.CommandPath())
	case 1:
		return nil
	}
	return fmt.Errorf("unexpected argument %q: see %s --help", args[1], cmd.CommandPath())
}

// caRequest is what is to be issued.
type caRequest struct {
	folder, id, service, out string
	ttl                      time.Duration
	overwrite                bool
}

func (r *caRequest) run(cmd *cobra.Command) error {
	if (r.id == "") == (r.service == "") {
		return errors.New("say either --id or --service")
	}
	ca, err := dev.Open(r.folder)
	if err != nil {
		return err
	}
	id, err := r.spiffeID(ca.TrustDomain())
	if err != nil {
		return err
	}
	cert, err := ca.Issue(id, r.ttl, time.Now())
	if err != nil {
		return err
	}
	name := filepath.Join(r.out, path.Base(id.Path()))
	certificate, key := name+".pem", name+"-key.pem"
	for _, own := range []string{dev.RootsFile, dev.KeyFile} {
		if own = filepath.Join(r.folder, own); samePath(own, certificate) || samePath(own, key) {
			return fmt.Errorf("%s is the CA's own: choose another folder with --out", own)
		}
	}
	if err := dev.Save(cert, certificate, key, r.overwrite); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), `Certificate for development of %s, until %s. In pillion.yaml:

identity:
  files: {certificate: %q, key: %q, roots: %q}
`, id, cert.Leaf.NotAfter.UTC().Format(time.RFC3339), certificate, key, filepath.Join(r.folder, dev.RootsFile))
	return err
}

func (r *caRequest) spiffeID(td spiffeid.TrustDomain) (spiffeid.ID, error) {
	if r.id != "" {
		return identity.ParseID(r.id)
	}
	return identity.ServiceID("", td, r.service)
}

// samePath says whether both are the same file, which may be missing.
func samePath(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	if errA == nil && errB == nil {
		return os.SameFile(infoA, infoB)
	}
	return filepath.Clean(a) == filepath.Clean(b)
}
