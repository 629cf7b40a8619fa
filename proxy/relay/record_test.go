package relay

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/proxy/recording"
)

// RPCs are remembered by what they are addressed to, as the caller wrote them, whatever
// becomes of them; those that go nowhere are not.
func TestRecording(t *testing.T) {
	simulated(t, func(t *testing.T) {
		ring := recording.New(recording.Options{Size: 100})
		defer ring.Close()
		r := newRig(t, options{Config: Config{Random: even, Recording: ring, Caller: "web"}})
		other := r.service("other", "o:1")
		set := r.obey(`
- name: r
  service: greeter
  route:
    rules:
    - {match: {metadata: [{key: to, exact: other}]}, request: {remove: [to]}, to: {service: other}}
    - {match: {metadata: [{key: to, exact: nowhere}]}, status: {code: NOT_FOUND}}
- {name: s, service: other, split: {split: {destinations: [{weight: 10000, group: g, request: {set: {to: g}}}]}}}
`)
		ring.SetMentions(set.Mentions())
		o := r.net.Listen("o:1")
		want := func(all ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for _, rpc := range ring.Recorded() {
				text := rpc.Service + rpc.Path + " by " + rpc.Caller
				for _, f := range rpc.Fields {
					text += " " + f.Name + "=" + f.Value
				}
				got = append(got, text)
			}
			expect(t, "remembered", got, all)
		}
		r.Request(1, "/a.B/C", true, "to", "other", "secret", "x")
		f, p := request(t, o)
		if f.Get("to") != "g" {
			t.Errorf("the app got %v", f.Fields)
		}
		p.TrailersOnly(f.Stream, "0")
		r.answer()
		first := "greeter/a.B/C by web to=other"
		want(first)
		// It is not remembered twice because the place where it goes has to be looked up.
		r.router.mu.Lock()
		r.router.asked = map[string]bool{"other": true}
		r.router.mu.Unlock()
		r.Request(3, "/a.B/D", true, "to", "other")
		second := "greeter/a.B/D by web to=other"
		want(first, second)
		r.router.reveal("other", other)
		want(first, second)
		f, p = request(t, o)
		p.TrailersOnly(f.Stream, "0")
		r.Request(5, "/a.B/E", true, "to", "nowhere")
		third := "greeter/a.B/E by web to=nowhere"
		want(first, second, third)
		// Of one whose service is not known at first there is nothing to remember before.
		r.router.mu.Lock()
		r.router.pending = true
		r.router.mu.Unlock()
		r.Request(7, "/a.B/F", true, "to", "nowhere")
		want(first, second, third)
		r.router.settle(r.cluster)
		fourth := "greeter/a.B/F by web to=nowhere"
		want(first, second, third, fourth)
		r.router.settle(nil)
		r.Request(9, "/a.B/G", true)
		want(first, second, third, fourth)
		r.Frames()
	})
}

// One of so many is remembered, over all the memories that RPCs have.
func TestRecordingASample(t *testing.T) {
	simulated(t, func(t *testing.T) {
		ring := recording.New(recording.Options{Size: 1000, OneIn: 10})
		defer ring.Close()
		draws := uint64(0)
		r := newRig(t, options{Config: Config{Recording: ring, Random: func() uint64 {
			draws += 0x9e3779b97f4a7c15
			return draws
		}}})
		a := r.net.Listen("a:1")
		const rpcs = 1000
		for i := range rpcs {
			id := uint32(2*i + 1)
			r.Request(id, fmt.Sprint("/a.B/", i), true)
			a.Conn().Frames()
			a.Conn().TrailersOnly(id, "0")
			r.Frames()
		}
		if n := len(ring.Recorded()); n < rpcs/10-30 || n > rpcs/10+30 {
			t.Errorf("%d of %d are remembered", n, rpcs)
		}
		for i, rpc := range ring.Recorded() {
			if rpc.Time.Before(time.Now().Add(-time.Hour)) || rpc.Service != "greeter" {
				t.Fatalf("%d: %+v", i, rpc)
			}
		}
	})
}
