package telemetry

// Kind is the direction in which an RPC goes through the sidecar.
type Kind uint8

const (
	// Outbound RPCs come from the local app. They count as grpc_client_*.
	Outbound Kind = iota
	// Inbound RPCs go to the local app. They count as grpc_server_*.
	Inbound
)

// String returns the direction as labels and logs have it: "outbound" or
// "inbound".
func (k Kind) String() string {
	if k == Inbound {
		return "inbound"
	}
	return "outbound"
}

// prefix begins the names of the direction's metrics.
func (k Kind) prefix() string {
	if k == Inbound {
		return "grpc_server_"
	}
	return "grpc_client_"
}

// RPCType is what the grpc_type label says. It cannot be seen on the wire, so
// it is TypeUnknown until the method's descriptor was read.
type RPCType uint8

const (
	TypeUnknown      RPCType = iota // no descriptor was seen
	TypeUnary                       // one request, one response
	TypeClientStream                // many requests, one response
	TypeServerStream                // one request, many responses
	TypeBidiStream                  // many requests, many responses
)

// TypeOf returns the type of a method whose descriptor says which of its sides
// stream.
func TypeOf(clientStream, serverStream bool) RPCType {
	switch {
	case clientStream && serverStream:
		return TypeBidiStream
	case clientStream:
		return TypeClientStream
	case serverStream:
		return TypeServerStream
	}
	return TypeUnary
}

// String returns the value of the grpc_type label, such as "bidi_stream".
func (t RPCType) String() string {
	switch t {
	case TypeUnary:
		return "unary"
	case TypeClientStream:
		return "client_stream"
	case TypeServerStream:
		return "server_stream"
	case TypeBidiStream:
		return "bidi_stream"
	}
	return "unknown"
}
