package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/lipgloss/table"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
)

func newIdentityCommand() *cobra.Command {
	var (
		admin  adminFlags
		output string
	)
	cmd := &cobra.Command{
		Use:   "identity",
		Short: "Show who a running sidecar is, whom it believes, and whom it is connected with",
		Long: `Ask a running sidecar for its certificate and where that comes from, the roots by which
it verifies others, and who is connected with it by mutual TLS.`,
		Example: "  pillion identity\n  pillion identity --admin 127.0.0.1:15000 -o json",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("--output: %q is not known: use text or json", output)
			}
			var answer *adminv1.GetIdentityResponse
			err := admin.ask(cmd.Context(), admin.address, func(ctx context.Context, sidecar adminv1.AdminClient) (err error) {
				answer, err = sidecar.GetIdentity(ctx, &adminv1.GetIdentityRequest{})
				return err
			})
			if err != nil {
				return err
			}
			if output == "json" {
				return writeJSON(cmd.OutOrStdout(), answer)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), identityText(cmd.OutOrStdout(), answer, time.Now()))
			return err
		},
	}
	admin.add(cmd)
	addOutputFlag(cmd, &output, "text")
	return cmd
}

// addOutputFlag gives a command the choice between a form for people and JSON.
func addOutputFlag(cmd *cobra.Command, to *string, people string) {
	cmd.Flags().StringVarP(to, "output", "o", people, "the `FORM` of what is shown: "+people+" or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{people, "json"}, cobra.ShellCompDirectiveNoFileComp))
}

// identityText lays an identity out for people, in colour where out is a terminal.
func identityText(out io.Writer, answer *adminv1.GetIdentityResponse, now time.Time) string {
	if answer.GetKind() == "" {
		return "this sidecar has no identity: all its traffic is plaintext (write identity into its bootstrap)\n"
	}
	r := lipgloss.NewRenderer(out)
	bold, bad := r.NewStyle().Bold(true), r.NewStyle().Foreground(lipgloss.Color("1"))
	var b strings.Builder
	line := func(name, text string) { fmt.Fprintf(&b, "%-14s %s\n", name, text) }
	if own := answer.GetCertificate(); own != nil {
		b.WriteString(bold.Render(own.GetSpiffeId()) + "\n")
		line("valid", validity(own, now))
		line("obtained", at(answer.GetObtainedAt()))
		line("serial", own.GetSerialNumber())
		line("issuer", own.GetIssuer())
	} else {
		b.WriteString(bad.Render("there is no certificate yet") + "\n")
	}
	line("source", answer.GetKind()+" "+answer.GetLocation())
	if answer.GetError() != "" {
		line("", bad.Render("fails since "+at(answer.GetFailingSince())+": "+answer.GetError()))
	}
	if answer.GetStalled() != "" {
		line("", bad.Render(answer.GetStalled()))
	}
	line("trust domain", cmp.Or(answer.GetTrustDomain(), "-"))
	line("inbound", cmp.Or(answer.GetInboundTls(), "-"))
	line("outbound", cmp.Or(answer.GetOutboundTls(), "-"))

	bundles := plainTable(r, "TRUST DOMAIN", "ROOT", "EXPIRES", "SHA-256")
	for _, bundle := range answer.GetBundles() {
		for _, root := range bundle.GetAuthorities() {
			bundles.Row(bundle.GetTrustDomain(), cmp.Or(root.GetSubject(), root.GetSpiffeId()), expiry(root, now), short(root.GetSha256()))
		}
	}
	b.WriteString("\n" + rendered(bundles))
	if len(answer.GetPeers()) == 0 {
		b.WriteString("\nnobody is connected by mutual TLS\n")
		return b.String()
	}
	peers := plainTable(r, "PEER", "SIDE", "ADDRESS", "CONNECTIONS", "SINCE", "EXPIRES", "TLS")
	for _, peer := range answer.GetPeers() {
		peers.Row(peer.GetCertificate().GetSpiffeId(), enumWord(peer.GetSide().String(), "SIDE_"), peer.GetAddress(),
			number(peer.GetConnections()), at(peer.GetConnectedAt()), expiry(peer.GetCertificate(), now), strings.TrimPrefix(peer.GetTlsVersion(), "TLS "))
	}
	b.WriteString("\n" + rendered(peers))
	return b.String()
}

// validity says until when a certificate is valid, and how long that is from now.
func validity(c *adminv1.Certificate, now time.Time) string {
	return fmt.Sprintf("%s to %s (%s)", at(c.GetNotBefore()), at(c.GetNotAfter()), expiry(c, now))
}

// expiry says how long a certificate is still valid.
func expiry(c *adminv1.Certificate, now time.Time) string {
	left := c.GetNotAfter().AsTime().Sub(now)
	if left <= 0 {
		return "expired"
	}
	return "in " + rough(left)
}

// rough is a duration as people say it, in its two largest units at most.
func rough(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*day:
		return fmt.Sprintf("%dd", d/day)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// at is a time as people read it, in their own zone.
func at(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().Local().Format("2006-01-02 15:04:05")
}

// short is the beginning of a fingerprint.
func short(hex string) string { return hex[:min(len(hex), 16)] }

// plainTable is a table without lines.
func plainTable(r *lipgloss.Renderer, headers ...string) *table.Table {
	header := r.NewStyle().Bold(true)
	return table.New().Border(lipgloss.HiddenBorder()).
		BorderTop(false).BorderBottom(false).BorderLeft(false).BorderRight(false).BorderHeader(false).BorderColumn(false).
		StyleFunc(func(row, _ int) lipgloss.Style {
			style := r.NewStyle().PaddingRight(2)
			if row == table.HeaderRow {
				return style.Inherit(header)
			}
			return style
		}).
		Headers(headers...)
}

// rendered is a table's text, without blanks at the ends of its lines.
func rendered(t *table.Table) string {
	var text strings.Builder
	for line := range strings.Lines(t.Render() + "\n") {
		text.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return text.String()
}
