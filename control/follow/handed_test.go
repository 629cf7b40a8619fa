package follow

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// handOver is what a follower hands over, as another process gets it.
func (r *rig) handOver() *Handed {
	r.t.Helper()
	text, err := json.Marshal(r.f.HandOver())
	if err != nil {
		r.t.Fatal(err)
	}
	h := &Handed{}
	if err := json.Unmarshal(text, h); err != nil {
		r.t.Fatal(err)
	}
	return h
}

// A process that replaces another knows at once what that one knew, though the store does
// not answer, and nothing was kept on disk; and so does the next one.
func TestWhatIsHandedOverHoldsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, a := memkv.New(), &agent{states: map[string][]*controlv1.RunState{}}
		r := newRig(t, memory, nil)
		r.putTimeout("web", "a", 1, 1)
		r.putTimeout("greeter", "g", 1, 1)
		r.putTimeout("other", "o", 1, 1)
		canary, err := protojson.Marshal(&controlv1.Document{Revision: 1, Body: &controlv1.Document_Canary{Canary: &configv1.Canary{
			Name: "new", Service: "web", Stable: "v1", Canary: "v2", Steps: []*configv1.CanaryStep{{Weight: 1000}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		r.put(control.DocumentKey(control.Canary, "web", "new"), canary)
		r.putState(&controlv1.RunState{Kind: "canary", Service: "web", Name: "new", Number: 7, Phase: controlv1.Phase_PHASE_RUNNING, Weight: 10_000})
		r.start()
		r.f.Follow("greeter")
		r.f.Follow("other")
		synctest.Wait()
		// Wrong since then: the last good version is what counts.
		r.put(control.DocumentKey(control.Policy, "web", "a"), []byte(`{"revision":"2","policy":{"name":"a","service":"web","timeout":{"default":"-1s"}}}`))
		synctest.Wait()
		handed := r.handOver()
		r.stop()

		for range 2 {
			a.States("web", nil)
			r = newRig(t, memory, func(o *Options) { o.Handed, o.Agents = handed, []Agent{a} })
			r.store.SetFault(memkv.Fault{Err: errors.New("away")})
			start := time.Now()
			r.start()
			r.f.Follow("greeter") // and other not
			r.f.Await(t.Context(), "web")
			r.f.Await(t.Context(), "greeter")
			r.want("waited", time.Since(start), time.Duration(0))
			r.want("a", r.timeout("a"), "1s")
			r.want("g", r.timeout("g"), "1s")
			r.want("states", a.own(), 1)
			r.want("unknown", r.unknowns(), 0)
			time.Sleep(time.Second)
			if r.f.Err() == nil {
				t.Error("nothing says that the store is away")
			}
			handed = r.handOver()
			r.want("handed on of what nobody followed", len(handed.Older), 1)
			r.f.Follow("other")
			r.f.Await(t.Context(), "other")
			r.want("o", r.timeout("o"), "1s")
			r.store.SetFault(memkv.Fault{})
			time.Sleep(time.Minute)
			r.want("an error when the store is back", r.f.Err(), error(nil))
			r.stop()
		}
	})
}

// What is no hand-over, or one of another store, is of no use, and does no harm.
func TestAHandOverThatIsOfNoUse(t *testing.T) {
	for name, spoil := range map[string]func(h *Handed){
		"another store":   func(h *Handed) { h.Store = "elsewhere" },
		"another version": func(h *Handed) { h.Services["web"] = []byte(`{"version":99,"service":"web"}`) },
		"another service": func(h *Handed) { h.Services["web"] = h.Services[AllServices] },
		"no JSON":         func(h *Handed) { h.Services["web"] = []byte(`{`) },
		"nothing":         func(h *Handed) { clear(h.Services) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory := memkv.New()
				r := newRig(t, memory, nil)
				r.putTimeout("web", "a", 1, 1)
				r.start()
				synctest.Wait()
				handed := r.handOver()
				r.stop()
				spoil(handed)
				r = newRig(t, memory, func(o *Options) { o.Handed = handed })
				r.store.SetFault(memkv.Fault{Err: errors.New("away")})
				r.start()
				defer r.stop()
				r.f.Await(t.Context(), "web")
				r.want("a", r.timeout("a"), "")
				r.want("unknown", r.unknowns(), 1)
				// It does not know, so it does not say that it does.
				r.want("handed on", r.handOver().Services["web"] == nil, true)
				r.store.SetFault(memkv.Fault{})
				time.Sleep(time.Minute)
				r.want("a when the store is back", r.timeout("a"), "1s")
			})
		})
	}
}

// One service that takes more than there is room for does not keep the others back.
func TestWhatIsHandedOverIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, memkv.New(), func(o *Options) {
			o.Handed = &Handed{Store: "memory", Older: map[string]json.RawMessage{
				"big": json.RawMessage(`"` + strings.Repeat("x", maxHanded) + `"`), "small": json.RawMessage(`{}`),
			}}
		})
		r.putTimeout("web", "a", 1, 1)
		r.start()
		defer r.stop()
		synctest.Wait()
		h := r.f.HandOver()
		r.want("older", len(h.Older), 1)
		r.want("the app's own", h.Services["web"] != nil, true)
	})
}
