package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/files"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	"github.com/pillion-proxy/pillion/registry"
)

const (
	defaultAdmin = "127.0.0.1:15000"
	// maxAdminAnswer bounds an answer of a sidecar's, in bytes.
	maxAdminAnswer = 256 << 20
)

// adminFlags say how a running sidecar is asked.
type adminFlags struct {
	address                 string
	certificate, key, roots string
	id                      string // that the sidecar has to prove; "": any of the trust domain
	timeout                 time.Duration
}

// add gives a command the flags.
func (f *adminFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.address, "admin", cmp.Or(os.Getenv(variable("admin")), defaultAdmin), usage("ask the sidecar with this admin `ADDRESS`", "admin"))
	f.addRest(cmd)
}

// addRest gives a command the flags but for the address.
func (f *adminFlags) addRest(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.DurationVar(&f.timeout, "timeout", 5*time.Second, "how long the answer may take, a `DURATION`")
	for _, file := range []struct {
		to          *string
		name, usage string
	}{
		{&f.certificate, "tls-cert", "the certificate to show to an admin port beyond this machine, a PEM `FILE`"},
		{&f.key, "tls-key", "its key, a PEM `FILE`"},
		{&f.roots, "tls-ca", "the roots that the sidecar's certificate must be from, a PEM `FILE`"},
	} {
		flags.StringVar(file.to, file.name, os.Getenv(variable(file.name)), usage(file.usage, file.name))
		_ = cmd.MarkFlagFilename(file.name, "pem", "crt", "key")
	}
	flags.StringVar(&f.id, "tls-id", os.Getenv(variable("tls-id")), usage("the `SPIFFE-ID` that the sidecar has to prove; without, anybody's of the trust domain will do", "tls-id"))
	_ = cmd.RegisterFlagCompletionFunc("tls-id", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("admin", cobra.NoFileCompletions)
	_ = cmd.RegisterFlagCompletionFunc("timeout", cobra.NoFileCompletions)
}

// ask has the sidecar at an address answer one question. Its errors are one line.
func (f *adminFlags) ask(ctx context.Context, address string, question func(context.Context, adminv1.AdminClient) error) error {
	network, where, err := registry.ParseAddress(address)
	if err != nil {
		return fmt.Errorf("--admin: %w", err)
	}
	target := "passthrough:///" + where
	if network == "unix" {
		target = "unix:" + where
	}
	proof, err := f.credentials()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(proof),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAdminAnswer)))
	if err != nil {
		return fmt.Errorf("--admin: %w", err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	return adminError(address, question(ctx, adminv1.NewAdminClient(conn)))
}

// credentials are those of TLS where files are named, else none.
func (f *adminFlags) credentials() (credentials.TransportCredentials, error) {
	if f.certificate == "" && f.key == "" && f.roots == "" {
		return insecure.NewCredentials(), nil
	}
	if f.certificate == "" || f.key == "" || f.roots == "" {
		return nil, errors.New("--tls-cert, --tls-key and --tls-ca belong together: give all three")
	}
	config, err := clientTLS(f.certificate, f.key, f.roots, f.id)
	if err != nil {
		return nil, err
	}
	return credentials.NewTLS(config), nil
}

// clientTLS is a client's TLS that believes who has proven a SPIFFE ID of the client's
// own trust domain, whose roots these are.
func clientTLS(certificate, key, roots, id string) (*tls.Config, error) {
	state, err := clientState(certificate, key, roots)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*state.Certificate},
		InsecureSkipVerify: true, //nolint:gosec // names do not matter: VerifyConnection finds out who that is
		VerifyConnection: func(c tls.ConnectionState) error {
			peer, err := state.Verify(c.PeerCertificates, x509.ExtKeyUsageServerAuth, time.Now())
			if err == nil && id != "" && peer.ID.String() != id {
				err = fmt.Errorf("it has proven to be %s, not %s (--tls-id)", peer.ID, id)
			}
			return err
		},
	}, nil
}

func clientState(certificate, key, roots string) (*identity.State, error) {
	source, err := files.Open(files.Options{Certificate: certificate, Key: key, Roots: roots})
	if err != nil {
		return nil, err
	}
	return source.State(), nil
}

// adminError says in words what became of a question.
func adminError(address string, err error) error {
	switch st := status.Convert(err); st.Code() {
	case codes.OK:
		return nil
	case codes.Unavailable:
		why := st.Message()
		switch {
		case strings.Contains(why, "connection refused"):
			why = "connection refused"
		case strings.Contains(why, "error reading server preface"), strings.Contains(why, "authentication handshake failed"), strings.Contains(why, "connection reset"):
			return fmt.Errorf("%s: does not answer as a sidecar's admin port: %s (beyond a sidecar's own machine it speaks TLS: give --tls-cert, --tls-key and --tls-ca)", address, lastPart(why))
		}
		return noSidecar(address, why)
	case codes.DeadlineExceeded:
		return noSidecar(address, "no answer in time")
	case codes.InvalidArgument:
		return errors.New(strings.TrimPrefix(st.Message(), "admin: "))
	default:
		return fmt.Errorf("%s: does not answer as a sidecar's admin port: %s", address, firstLine(st.Message()))
	}
}

// errNoSidecar says that nobody answered.
var errNoSidecar = errors.New("is it running, and is this its admin.listen (--admin)?")

func noSidecar(address, why string) error {
	return fmt.Errorf("no sidecar answers at %s: %s: %w", address, firstLine(why), errNoSidecar)
}

// firstLine is the first line of a text that others have written.
func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// lastPart is what gRPC's transport puts behind its own words: `desc = "..."`.
func lastPart(text string) string {
	text = firstLine(text)
	if _, cause, ok := strings.Cut(text, `desc = "`); ok {
		text = cause
	}
	text = strings.TrimSuffix(text, `"`)
	text = strings.TrimPrefix(text, "transport: ")
	return text
}
