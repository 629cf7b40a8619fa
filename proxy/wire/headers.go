package wire

// Names of headers and trailers that gRPC defines, in the lower case that
// HTTP/2 demands (RFC 9113, section 8.2).
const (
	HeaderContentType      = "content-type"
	HeaderTE               = "te"
	HeaderUserAgent        = "user-agent"
	HeaderTimeout          = "grpc-timeout"
	HeaderEncoding         = "grpc-encoding"
	HeaderAcceptEncoding   = "grpc-accept-encoding"
	HeaderMessageType      = "grpc-message-type"
	HeaderStatus           = "grpc-status"
	HeaderMessage          = "grpc-message"
	HeaderStatusDetails    = "grpc-status-details-bin"
	HeaderPreviousAttempts = "grpc-previous-rpc-attempts" // gRFC A6
	HeaderRetryPushback    = "grpc-retry-pushback-ms"     // gRFC A6
)

// HeaderFlags is Pillion's own: the Flag of an error that Pillion made itself.
const HeaderFlags = "pillion-flags"

// MeasurePrefix begins the names of trailers that are Pillion's own, in which an app reports
// a number of an RPC: the rest is the measure's name.
const MeasurePrefix = "pillion-measure-"

// HeaderMirror is Pillion's own: it says that a request is the copy of another one,
// whose answer nobody wants.
const HeaderMirror = "pillion-mirror"

// What the app is told of a caller that has proven who it is. What callers themselves
// say in these is removed.
const (
	// HeaderPeer is Pillion's own: the caller's SPIFFE ID.
	HeaderPeer = "pillion-peer"
	// HeaderForwardedClientCert is Envoy's: the same, and more of the certificate.
	HeaderForwardedClientCert = "x-forwarded-client-cert"
)

const (
	// ContentType is the content-type of an answer that Pillion makes itself.
	ContentType = "application/grpc"
	// TETrailers is the one value of "te" that HTTP/2 allows and gRPC demands.
	TETrailers = "trailers"
)
