package wire

import "strings"

// IsGRPC reports whether a content-type is gRPC's: "application/grpc", alone
// or followed by '+' and a codec or by ';' and parameters. Media types compare
// without regard to case (RFC 9110, section 8.3.1). "application/grpc-web" is
// another protocol.
func IsGRPC(contentType string) bool {
	const base = ContentType
	if len(contentType) < len(base) {
		return false
	}
	// The exact comparison is what nearly every RPC meets.
	if contentType[:len(base)] != base && !strings.EqualFold(contentType[:len(base)], base) {
		return false
	}
	return len(contentType) == len(base) || contentType[len(base)] == '+' || contentType[len(base)] == ';'
}

// SplitPath takes the :path of an RPC apart: "/helloworld.Greeter/SayHello" is
// service "helloworld.Greeter" and method "SayHello". The last slash divides
// them, as in grpc-go, so a service may be named "some/prefix/helloworld.Greeter".
// It is not ok where the leading slash, the service or the method is missing.
func SplitPath(path string) (service, method string, ok bool) {
	if len(path) == 0 || path[0] != '/' {
		return "", "", false
	}
	i := strings.LastIndexByte(path, '/')
	if i < 2 || i == len(path)-1 {
		return "", "", false
	}
	return path[1:i], path[i+1:], true
}
