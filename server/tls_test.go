package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/pillion-proxy/pillion/identity/identitytest"
)

// What a client has proven may end while its connection stays open.
func TestClientsAreAskedForWithEachRequest(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "mesh.test")
	var ended atomic.Bool
	r := start(t, Options{
		TLS: &tls.Config{Certificates: []tls.Certificate{*ca.Issue("/svc/greeter")}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"http/1.1"}},
		MayUse: func(c tls.ConnectionState) error {
			if len(c.PeerCertificates) != 1 || c.PeerCertificates[0].URIs[0].String() != "spiffe://mesh.test/ops/ann" {
				t.Errorf("asked for %v", c.PeerCertificates)
			}
			if ended.Load() {
				return errors.New("it is over")
			}
			return nil
		},
	})
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{*ca.Issue("/ops/ann")},
		VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error {
			if ended.Load() {
				t.Error("there is another connection")
			}
			return nil
		},
	}}
	t.Cleanup(transport.CloseIdleConnections)
	for _, want := range []int{http.StatusOK, http.StatusForbidden} {
		answer, err := (&http.Client{Transport: transport}).Get("https://" + r.address + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("got %s, want %d", answer.Status, want)
		}
		ended.Store(true)
	}
}
