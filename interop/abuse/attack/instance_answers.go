package attack

import (
	"math"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// instancesWithBadAnswers keep to HTTP/2, and send what is no gRPC, or gRPC that
// makes no sense. It reaches the client as it is.
func instancesWithBadAnswers() []Instance {
	// It is the client that judges: these are what grpc-go makes of what it gets.
	var (
		anything []codes.Code
		internal = []codes.Code{codes.Internal}
		unknown  = []codes.Code{codes.Unknown}
	)
	with := func(name string, statuses []codes.Code, onRequest func(p *peer, id uint32)) Instance {
		return Instance{Name: "answer: " + name, Codes: statuses, onRequest: onRequest}
	}
	trailers := func(name string, status codes.Code, fields ...string) Instance {
		return with(name, []codes.Code{status}, func(p *peer, id uint32) {
			_ = p.send(begin(id), data(id, false, message(0)), headers(id, true, fields...))
		})
	}
	sends := func(name string, statuses []codes.Code, frames func(id uint32) [][]byte) Instance {
		return with(name, statuses, func(p *peer, id uint32) { _ = p.send(frames(id)...) })
	}
	plain := func(id uint32, status, contentType string) []byte {
		return headers(id, false, ":status", status, "content-type", contentType)
	}
	slowly := func(p *peer, what []byte) {
		for i := range what {
			if !p.wait(20*time.Millisecond) || p.send(what[i:i+1]) != nil {
				return
			}
		}
	}

	return []Instance{
		with("a page without end", anything, func(p *peer, id uint32) {
			_ = p.send(plain(id, "200", "text/html"))
			for p.wait(time.Millisecond) {
				if p.send(data(id, false, make([]byte, 100))) != nil {
					return
				}
			}
		}),
		sends("404 and a page", []codes.Code{codes.Unimplemented}, func(id uint32) [][]byte {
			return [][]byte{plain(id, "404", "text/html"), data(id, true, []byte("<html>"))}
		}),
		sends("no content-type", unknown, func(id uint32) [][]byte {
			return [][]byte{headers(id, false, ":status", "200"), data(id, true, message(0))}
		}),
		sends("no trailers", internal, func(id uint32) [][]byte { return [][]byte{begin(id), data(id, true, message(0))} }),
		sends("no grpc-status", unknown, func(id uint32) [][]byte {
			return [][]byte{begin(id), headers(id, true, "x", "y")}
		}),
		trailers("grpc-status that is huge", codes.Unknown, "grpc-status", "99999999999999999999999999"),
		trailers("grpc-status that is negative", math.MaxUint32, "grpc-status", "-1"),
		trailers("grpc-status that is empty", codes.Unknown, "grpc-status", ""),
		trailers("grpc-status of 15 KB", codes.Unknown, "grpc-status", strings.Repeat("1", 15000)),
		trailers("grpc-status twice", codes.PermissionDenied, "grpc-status", "0", "grpc-status", "7"),
		trailers("grpc-message that is no ASCII", codes.Internal, "grpc-status", "13", "grpc-message", "\xff\xfe \x80 \xe2\x28\xa1"),
		trailers("grpc-message of bad escapes", codes.Internal, "grpc-status", "13", "grpc-message", "%%%zz%f%00%0d%0a"+strings.Repeat("%", 1000)),
		trailers("grpc-message of 7.5 KB, twice", codes.Internal, "grpc-status", "13", "grpc-message", filler(7500), "grpc-message", filler(7500)),
		trailers("pillion-flags", codes.Unavailable, "grpc-status", "14", "pillion-flags", "UF"),
		sends("trailers only, as of a sidecar whose app is gone", []codes.Code{codes.Unavailable}, func(id uint32) [][]byte {
			return [][]byte{headers(id, true, ":status", "200", "content-type", "application/grpc",
				"grpc-status", "14", "pillion-flags", "UF")}
		}),
		sends("trailers only, and a body", []codes.Code{codes.OK, codes.Unknown, codes.Internal, codes.PermissionDenied},
			func(id uint32) [][]byte {
				return [][]byte{headers(id, true, ":status", "200", "content-type", "application/grpc", "grpc-status", "7"),
					data(id, true, message(0))}
			}),
		sends("the length of a message is 4 GiB", []codes.Code{codes.ResourceExhausted}, func(id uint32) [][]byte {
			return [][]byte{begin(id), data(id, false, []byte("\x00\xff\xff\xff\xffabc")), ending(id)}
		}),
		sends("the flag of a message is 255", internal, func(id uint32) [][]byte {
			return [][]byte{begin(id), data(id, false, []byte("\xff\x00\x00\x00\x03abc")), ending(id)}
		}),
		sends("compressed, but how", internal, func(id uint32) [][]byte {
			return [][]byte{begin(id), data(id, false, []byte("\x01\x00\x00\x00\x03abc")), ending(id)}
		}),
		sends("an encoding that there is not", internal, func(id uint32) [][]byte {
			return [][]byte{
				headers(id, false, ":status", "200", "content-type", "application/grpc", "grpc-encoding", "\"%&"),
				data(id, false, []byte("\x01\x00\x00\x00\x03abc")), ending(id),
			}
		}),
		with("half a message and silence", []codes.Code{codes.DeadlineExceeded, codes.Canceled}, func(p *peer, id uint32) {
			_ = p.send(begin(id), data(id, false, message(100)[:50]))
		}).until(time.Second),
		with("nothing", []codes.Code{codes.DeadlineExceeded}, nil).until(time.Second),
		with("headers and nothing", []codes.Code{codes.DeadlineExceeded, codes.Canceled}, func(p *peer, id uint32) {
			_ = p.send(begin(id))
		}).until(time.Second),
		with("octet by octet", anything, func(p *peer, id uint32) { slowly(p, answer(id)) }).until(time.Second),
		with("a message in DATA of one octet", []codes.Code{codes.OK}, func(p *peer, id uint32) {
			_ = p.send(begin(id))
			for _, octet := range message(0) {
				_ = p.send(data(id, false, []byte{octet}))
			}
			_ = p.send(ending(id))
		}),
	}
}

// until shortens the deadline of the RPCs.
func (i Instance) until(deadline time.Duration) Instance {
	i.Deadline = deadline

	return i
}
