package health

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// The paths of the two methods.
const (
	PathCheck = "/grpc.health.v1.Health/Check"
	PathWatch = "/grpc.health.v1.Health/Watch"
)

// Status is grpc.health.v1.HealthCheckResponse.ServingStatus.
type Status int32

// The statuses.
const (
	Unknown        Status = 0
	Serving        Status = 1
	NotServing     Status = 2
	ServiceUnknown Status = 3
)

// String returns the status's name.
func (s Status) String() string {
	switch s {
	case Unknown:
		return "UNKNOWN"
	case Serving:
		return "SERVING"
	case NotServing:
		return "NOT_SERVING"
	case ServiceUnknown:
		return "SERVICE_UNKNOWN"
	}
	return fmt.Sprintf("status %d", int32(s))
}

// prefixLen is the length of what stands before a gRPC message.
const prefixLen = 5

// AppendRequest appends a HealthCheckRequest about a service, with its prefix.
func AppendRequest(dst []byte, service string) []byte {
	var body []byte
	if service != "" {
		body = protowire.AppendTag(body, 1, protowire.BytesType)
		body = protowire.AppendString(body, service)
	}
	dst = append(dst, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(body)))
	return append(dst, body...)
}

// parseResponse reads a HealthCheckResponse, without its prefix.
func parseResponse(p []byte) (status Status, err error) {
	for len(p) > 0 {
		num, typ, n := protowire.ConsumeTag(p)
		if n < 0 {
			return Unknown, protowire.ParseError(n)
		}
		p = p[n:]
		if num == 1 && typ == protowire.VarintType {
			v, n := protowire.ConsumeVarint(p)
			if n < 0 {
				return Unknown, protowire.ParseError(n)
			}
			status = Status(int32(uint32(v)))
			p = p[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(num, typ, p); n < 0 {
			return Unknown, protowire.ParseError(n)
		}
		p = p[n:]
	}
	return status, nil
}

// maxMessage bounds an answer: its one field takes two bytes.
const maxMessage = 4096

var errCompressed = errors.New("the answer is compressed, which was not asked for")

// reader puts the messages of an answer together, wherever DATA frames cut them.
type reader struct{ buf []byte }

// feed takes the next bytes and hands over each status that is complete.
func (r *reader) feed(p []byte, got func(Status)) error {
	for len(p) > 0 {
		need := prefixLen
		if len(r.buf) >= prefixLen {
			need += int(binary.BigEndian.Uint32(r.buf[1:]))
		}
		n := min(need-len(r.buf), len(p))
		r.buf = append(r.buf, p[:n]...)
		p = p[n:]
		if len(r.buf) < prefixLen {
			return nil
		}
		size := binary.BigEndian.Uint32(r.buf[1:])
		switch {
		case r.buf[0] != 0:
			return errCompressed
		case size > maxMessage:
			return fmt.Errorf("the answer has %d bytes, more than the %d that it may have", size, maxMessage)
		case len(r.buf) < prefixLen+int(size):
			continue
		}
		status, err := parseResponse(r.buf[prefixLen:])
		if err != nil {
			return fmt.Errorf("the answer is no HealthCheckResponse: %w", err)
		}
		r.buf = r.buf[:0]
		got(status)
	}
	return nil
}
