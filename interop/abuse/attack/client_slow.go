package attack

import (
	"context"
	"slices"
	"time"

	"golang.org/x/net/http2"
)

// clientSlow take their time: each holds some connections, and does next to
// nothing with them.
func clientSlow() []Client {
	hello := greeting()
	hang := request(MethodHang)

	return []Client{
		{
			Name: "saying nothing", What: "connects and says nothing",
			Want: []string{tooSlow}, Memory: ordinary, Slow: true, Run: slowly(nil, nil),
		},
		{
			Name: "preface octet by octet", What: "sends the preface one octet every half second",
			Want: []string{tooSlow}, Memory: ordinary, Slow: true, Run: slowly(nil, []byte(http2.ClientPreface)),
		},
		{
			Name: "no SETTINGS after the preface", What: "sends the preface and nothing more",
			Want: []string{tooSlow}, Memory: ordinary, Slow: true, Run: slowly([]byte(http2.ClientPreface), nil),
		},
		{
			Name: "HTTP/1.1 octet by octet", What: "asks in HTTP/1.1 as slowly as it gets",
			Want: []string{gone, tooSlow}, Memory: ordinary, Slow: true, Run: slowly(nil, []byte("OPTIONS / HTTP/1.1\r\n")),
		},
		{
			Name: "HEADERS octet by octet", What: "sends a HEADERS frame one octet every half second",
			Want: []string{calm}, Memory: ordinary, Slow: true,
			Run: slowly(hello, appendRequest(nil, whole, 1, request(MethodHang, "a", filler(4000)))),
		},
		{
			Name: "a header block without an end", What: "sends HEADERS without END_HEADERS and nothing more",
			Want: []string{calm}, Memory: ordinary, Slow: true,
			Run: slowly(slices.Concat(hello, appendRequest(nil, 0, 1, hang)), nil),
		},
		{
			Name: "half of a header block on many connections", What: "sends 64 KiB of a header block on each of 200 connections and never goes on",
			Want: []string{calm}, Memory: budgeted, Slow: true, Run: halfBlocks,
		},
		{
			Name: "half of a frame", What: "sends 10 KiB of a HEADERS frame and never the rest",
			Want: []string{calm}, Memory: ordinary, Slow: true,
			Run: slowly(slices.Concat(hello, appendHeader(nil, 16<<10, http2.FrameHeaders, whole, 1), make([]byte, 10<<10)), nil),
		},
		{
			Name: "half open", What: "begins an RPC and closes its own direction",
			Want: []string{gone}, Memory: ordinary, Slow: true, Run: halfOpen,
		},
		{
			Name: "requests without an end", What: "opens as many streams as it may and never ends them",
			Want: []string{held}, Memory: budgeted, Slow: true, Run: withoutEnd,
		},
	}
}

// Greeting is what a client of HTTP/2 says first.
func Greeting() []byte { return greeting() }

// Wait connects, greets, and waits for what becomes of that.
func Wait(ctx context.Context, address string) (End, error) { return say(nil)(ctx, address) }

// slowly sends something at once and the rest octet by octet, and waits for the
// end.
func slowly(first, rest []byte) func(context.Context, string) (End, error) {
	return func(ctx context.Context, address string) (End, error) {
		c, err := connect(ctx, address, false)
		if err != nil {
			return End{}, err
		}
		_ = c.write(first)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for i := range rest {
			_ = c.write(rest[i : i+1])
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
			if c.over() || ctx.Err() != nil {
				break
			}
		}
		c.await(ctx, func() bool { return false })

		return c.end(), nil
	}
}

func halfBlocks(ctx context.Context, address string) (End, error) {
	part := slices.Concat(greeting(), appendRequest(nil, 0, 1, request(MethodHang)))
	for range 4 {
		part = appendFrame(part, http2.FrameContinuation, 0, 1, make([]byte, 16<<10))
	}
	var all []*caller
	defer func() {
		for _, c := range all {
			_ = c.Close()
		}
	}()
	for range 200 {
		c, err := connect(ctx, address, false)
		if err != nil {
			return End{}, err
		}
		_ = c.write(part)
		all = append(all, c)
	}
	var end End
	for _, c := range all {
		c.await(ctx, func() bool { return false })
		if end = c.end(); end.How != GoneAway {
			break
		}
	}

	return end, nil
}

func halfOpen(ctx context.Context, address string) (End, error) {
	c, err := greet(ctx, address)
	if err != nil {
		return End{}, err
	}
	_ = c.write(appendRequest(nil, whole, 1, request(MethodHang)))
	if half, is := c.Conn.(interface{ CloseWrite() error }); is {
		_ = half.CloseWrite()
	}
	c.await(ctx, func() bool { return false })

	return c.end(), nil
}

// withoutEnd waits for a while, whether anything is done about it.
func withoutEnd(ctx context.Context, address string) (End, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := greet(ctx, address)
	if err != nil {
		return End{}, err
	}
	block, ids := request(MethodHang), streams{}
	var p []byte
	for range 990 {
		p = appendRequest(p, whole, ids.next(), block)
	}
	_ = c.write(p)
	c.await(ctx, func() bool { return false })

	return c.end(), nil
}
