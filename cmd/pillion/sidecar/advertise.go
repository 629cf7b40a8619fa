package sidecar

import (
	"fmt"
	"net"
)

// advertised returns the address of the inbound listener that others are told.
func advertised(configured string, l net.Listener) (string, error) {
	if configured == "" {
		return address(l), nil
	}
	host, port, err := net.SplitHostPort(configured)
	if err != nil {
		return "", fmt.Errorf("inbound.advertise %q: want host:port: %w", configured, err)
	}
	if tcp, ok := l.Addr().(*net.TCPAddr); ok && port == "0" {
		port = fmt.Sprint(tcp.Port)
	}
	return net.JoinHostPort(host, port), nil
}

// checked returns where the agent on this machine finds the inbound listener,
// whatever others are told; "" where it cannot.
func checked(l net.Listener) string {
	tcp, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	if tcp.IP.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", fmt.Sprint(tcp.Port))
	}
	return tcp.String()
}
