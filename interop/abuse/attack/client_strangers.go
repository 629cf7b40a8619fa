package attack

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"slices"

	"golang.org/x/net/http2"
)

// clientStrangers speak something else.
func clientStrangers() []Client {
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 64<<10)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}

	return []Client{
		{Name: "HTTP/1.1", What: "asks in HTTP/1.1", Want: []string{gone}, Memory: ordinary, Brief: true, Run: raw([]byte("GET / HTTP/1.1\r\nhost: a\r\n\r\n"))},
		{
			Name: "HTTP/1.1 that wants to upgrade", What: "asks for an upgrade to h2c, which RFC 9113 has abolished", Want: []string{gone}, Memory: ordinary, Brief: true,
			Run: raw([]byte("POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: \r\n\r\n")),
		},
		{
			Name: "HTTP/1.1 with an endless body", What: "asks in HTTP/1.1 and goes on sending", Want: []string{gone}, Memory: ordinary,
			Run: rawFlood([]byte("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999\r\n\r\n"), make([]byte, 1024)),
		},
		{Name: "TLS", What: "begins a TLS handshake on the plaintext port", Want: []string{protocol}, Memory: ordinary, Brief: true, Run: raw(clientHello())},
		{Name: "noise", What: "sends noise", Want: []string{protocol}, Memory: ordinary, Brief: true, Run: raw(noise)},
		{Name: "endless noise", What: "sends noise without end", Want: []string{protocol}, Memory: ordinary, Run: rawFlood(noise, noise)},
		{Name: "zeros", What: "sends zeros", Want: []string{protocol}, Memory: ordinary, Brief: true, Run: raw(make([]byte, 4096))},
		{
			Name: "noise after the greeting", What: "greets, then sends noise",
			Want: []string{size}, Memory: ordinary, Brief: true, Run: say(noise),
		},
		{Name: "almost the preface", What: "differs from the preface in its last octet", Want: []string{protocol}, Memory: ordinary, Brief: true,
			Run: raw([]byte(http2.ClientPreface[:len(http2.ClientPreface)-1] + "X"))},
		{Name: "connecting and leaving", What: "connects and closes at once, over and over", Want: []string{held}, Memory: ordinary, Lasts: true, Run: churn(nil)},
		{
			Name: "greeting and leaving", What: "connects, greets, begins an RPC and closes, over and over",
			Want: []string{held}, Memory: ordinary, Lasts: true,
			Run: churn(slices.Concat(greeting(), appendRequest(nil, whole, 1, request(MethodHang)))),
		},
		{
			Name: "tearing connections down", What: "connects, greets, begins an RPC and resets the connection, over and over",
			Want: []string{held}, Memory: ordinary, Lasts: true,
			Run: tear(slices.Concat(greeting(), appendRequest(nil, whole, 1, request(MethodHang)))),
		},
		{
			Name: "cutting frames short", What: "connects, greets and closes in the middle of a frame, over and over",
			Want: []string{held}, Memory: ordinary, Lasts: true,
			Run: churn(slices.Concat(greeting(), appendRequest(nil, whole, 1, request(MethodHang))[:20])),
		},
	}
}

// raw sends bytes without a greeting and waits for the end.
func raw(p []byte) func(context.Context, string) (End, error) { return rawFlood(p, nil) }

func rawFlood(first, more []byte) func(context.Context, string) (End, error) {
	return func(ctx context.Context, address string) (End, error) {
		c, err := connect(ctx, address, false)
		if err != nil {
			return End{}, err
		}
		_ = c.write(first)
		if more != nil {
			c.flood(ctx, func(p []byte) []byte { return append(p, more...) })
		}
		c.await(ctx, func() bool { return false })

		return c.end(), nil
	}
}

// clientHello is what a TLS client says first.
func clientHello() []byte {
	here, there := net.Pipe()
	defer func() { _ = here.Close() }()
	go func() {
		_ = tls.Client(there, &tls.Config{ServerName: "app", NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}).Handshake()
		_ = there.Close()
	}()
	p := make([]byte, 4096)
	n, _ := here.Read(p)

	return p[:n]
}

// churn makes connections, says something and closes them.
func churn(p []byte) func(context.Context, string) (End, error) {
	return leave(p, func(*caller) {})
}

// tear does so by a TCP reset.
func tear(p []byte) func(context.Context, string) (End, error) {
	return leave(p, func(c *caller) {
		if tcp, is := c.Conn.(*net.TCPConn); is {
			_ = tcp.SetLinger(0)
		}
	})
}

func leave(p []byte, before func(*caller)) func(context.Context, string) (End, error) {
	return func(ctx context.Context, address string) (End, error) {
		var total End
		for ctx.Err() == nil {
			c, err := connect(ctx, address, true)
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() { // that of ctx
				break
			}
			if err != nil {
				return total, err
			}
			if len(p) > 0 {
				_ = c.write(p)
			}
			before(c)
			total.Sent += c.end().Sent
		}

		return total, nil
	}
}
