package relay

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-proxy/pillion/proxy/internal/scriptpeer"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

const mirrorPolicy = `
- name: shadow
  service: greeter
  route:
    rules:
    - request: {set: {x-set: ours}}
      mirror: {to: {service: copies}, max_concurrent: 2, max_bytes: 100}
`

// mirrored is a rig whose RPCs to a:1 are copied to m:1.
func mirrored(t *testing.T) (r *rig, a, m *scriptpeer.Host) {
	r = newRig(t, options{Config: Config{Random: even}})
	r.service("copies", "m:1")
	r.obey(mirrorPolicy)
	return r, r.net.Listen("a:1"), r.net.Listen("m:1")
}

func (r *rig) copies() int {
	synctest.Wait()
	rpc := policy.RPC{Path: "/a.B/C", Random: even}
	return r.router.policies.Load().Service("greeter").Outbound("/a.B/C").Route.Decide(&rpc, "greeter", nil).Rule.Mirror.Active()
}

// over checks that nothing is left of copies.
func (r *rig) over() {
	r.t.Helper()
	if n := r.copies(); n != 0 {
		r.t.Errorf("%d copies are under way still", n)
	}
	for _, c := range r.router.others {
		if n := c.InFlight(); n != 0 {
			r.t.Errorf("%d RPCs are under way to %s", n, c.Name())
		}
	}
}

func TestMirror(t *testing.T) {
	t.Run("the copy's answer is dropped", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r, a, m := mirrored(t)
			r.Request(1, "/a.B/C", false, "x-key", "value", "pillion-mirror", "no", "grpc-timeout", "20S")
			r.Message(1, 10, false)
			f, copied := request(t, m)
			if f.Get("pillion-mirror") != "1" || f.Get("x-key") != "value" || f.Get("x-set") != "ours" || f.Get(":path") != "/a.B/C" {
				t.Errorf("the copy is %v", f.Fields)
			}
			f, in := request(t, a)
			if f.Get("pillion-mirror") != "no" {
				t.Errorf("the instance got %v", f.Fields)
			}
			copied.Response(1, "x-theirs", "1")
			copied.Message(1, 20, false)
			r.Message(1, 20, true)
			copied.Want("DATA 1 25 end")
			in.Want("DATA 1 25 end")
			copied.Trailers(1, "0")
			r.Want()
			r.over()
			in.TrailersOnly(1, "5")
			r.Want("HEADERS 1 :status=200 grpc-status=5 end")
			copied.Want()
		})
	})
	t.Run("it goes on once the RPC is over", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r, a, m := mirrored(t)
			in := r.ask(a, 1, true, "grpc-timeout", "20S")
			in.TrailersOnly(1, "0")
			r.Want(answered)
			copied := m.Conn()
			copied.Want("HEADERS 1 :path=/a.B/C grpc-timeout=20S pillion-mirror=1 end")
			if n := r.copies(); n != 1 {
				t.Errorf("%d copies under way", n)
			}
			time.Sleep(20*time.Second - 1)
			copied.Want()
			time.Sleep(1)
			copied.Want("RST_STREAM 1 CANCEL")
			r.over()
		})
	})
	t.Run("but not without its whole request", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r, a, m := mirrored(t)
			r.ask(a, 1, false)
			r.Reset(1, http2.ErrCodeCancel)
			synctest.Wait()
			m.Conn().Want("HEADERS 1 * pillion-mirror=1", "RST_STREAM 1 CANCEL")
			r.over()
		})
	})
	t.Run("too long", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r, a, m := mirrored(t)
			in := r.ask(a, 1, false)
			r.Message(1, 50, false)
			r.Message(1, 50, true)
			m.Conn().Want("HEADERS 1 * pillion-mirror=1", "DATA 1 55", "RST_STREAM 1 CANCEL")
			in.Want("DATA 1 55", "DATA 1 55 end")
			in.TrailersOnly(1, "0")
			r.Want(answered)
			r.over()
		})
	})
	t.Run("too many", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r, a, m := mirrored(t)
			in := r.ask(a, 1, true)
			r.ask(a, 3, true)
			r.ask(a, 5, true)
			copied := m.Conn()
			copied.Want("HEADERS 1 *", "HEADERS 3 *")
			copied.TrailersOnly(1, "14", "pillion-flags", "UF")
			r.ask(a, 7, true)
			copied.Want("HEADERS 5 *")
			for id := uint32(1); id < 9; id += 2 {
				in.TrailersOnly(id, "0")
			}
			copied.Reset(3, http2.ErrCodeInternal)
			copied.TrailersOnly(5, "0")
			synctest.Wait()
			r.over()
		})
	})
	t.Run("nobody is there", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r, a, _ := mirrored(t)
			r.net.Remove("m:1")
			for i := range uint32(3) {
				r.ask(a, 2*i+1, true).TrailersOnly(2*i+1, "0")
				r.answer()
				r.over()
			}
		})
	})
	t.Run("it is slow to take the request", func(t *testing.T) {
		simulated(t, func(t *testing.T) {
			r := newRig(t, options{Config: Config{Random: even}})
			r.service("copies", "m:1")
			r.obey(mirrorPolicy)
			a, m := r.net.Listen("a:1"), r.net.Add("m:1", &scriptpeer.Host{Settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 20}}})
			r.Request(1, "/a.B/C", false)
			synctest.Wait()
			r.Message(1, 50, true)
			_, in := request(t, a)
			in.TrailersOnly(1, "0")
			r.Want(answered) // it does not wait for the copy
			m.Conn().Want("HEADERS 1 *", "DATA 1 20")
			m.Conn().TrailersOnly(1, "0") // nobody wants the rest
			m.Conn().Want("RST_STREAM 1 NO_ERROR")
			r.over()
		})
	})
}

// The first RPCs are not copied where it is not known yet to where; and one of them
// alone waits for that.
func TestMirrorToWhatIsNotKnownYet(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{Config: Config{Random: even}})
		copies := r.service("copies", "m:1")
		r.router.asked = map[string]bool{"copies": true}
		r.obey(mirrorPolicy)
		a, m := r.net.Listen("a:1"), r.net.Listen("m:1")
		for i := range uint32(5) {
			r.ask(a, 2*i+1, true).TrailersOnly(2*i+1, "0")
			r.answer()
		}
		if n := len(r.router.waiting); n != 1 {
			t.Errorf("%d wait", n)
		}
		r.router.reveal("copies", copies)
		r.ask(a, 11, true).TrailersOnly(11, "0")
		m.Conn().Want("HEADERS 1 *")
		m.Conn().TrailersOnly(1, "0")
		synctest.Wait()
		r.over()
	})
}

// A mirror that names no service is one of the service that the RPC is addressed to,
// wherever the rule sends it.
func TestMirrorToTheAddressed(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, options{Config: Config{Random: even}, instances: 2})
		r.versions(2)
		r.service("other", "o:1")
		r.obey(`
- {name: versions, service: greeter, subsets: {subsets: {v2: {meta: {version: v2}}}}}
- {name: shadow, service: greeter, route: {rules: [{to: {service: other}, mirror: {to: {subset: v2}}}]}}
`)
		o, b := r.net.Listen("o:1"), r.net.Listen("b:1")
		r.ask(o, 1, true).TrailersOnly(1, "0")
		r.Want(answered)
		b.Conn().Want("HEADERS 1 * pillion-mirror=1 end")
		b.Conn().TrailersOnly(1, "0")
		synctest.Wait()
		r.over()
	})
}
