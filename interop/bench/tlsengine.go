package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2"
)

// runTLSEngine serves HTTP/2 connections behind TLS that carry no RPCs, on an
// address that it prints: what an idle connection takes is all that is looked at.
func runTLSEngine(ctx context.Context, out io.Writer) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("%s: %w", roleTLS, err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return fmt.Errorf("%s: %w", roleTLS, err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("%s: %w", roleTLS, err)
	}
	ln := tls.NewListener(inner, &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}},
		NextProtos:   []string{"h2"}, MinVersion: tls.VersionTLS13,
	})
	context.AfterFunc(ctx, func() { _ = ln.Close() })
	if _, err := fmt.Fprintln(out, ln.Addr()); err != nil {
		return fmt.Errorf("%s: %w", roleTLS, err)
	}
	config := h2.Config{}.WithDefaults()
	for {
		nc, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", roleTLS, err)
		}
		go h2.New(h2.NewTransport(nc), h2.Server, &config, noRPCs{}).Serve()
	}
}

// noRPCs is a handler of connections on which nobody asks for anything.
type noRPCs struct{}

func (noRPCs) NewStream(*h2.Conn) *h2.Stream           { panic("an RPC, though none was sent") }
func (noRPCs) OnConnSlots(*h2.Batch, *h2.Conn)         {}
func (noRPCs) OnConnDraining(*h2.Batch, *h2.Conn)      {}
func (noRPCs) OnConnClosed(*h2.Batch, *h2.Conn, error) {}
