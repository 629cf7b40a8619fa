package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	"github.com/pillion-proxy/pillion/control/requests"
)

// Who waits for an answer is told what for, but not where it comes at once.
func TestWhatIsWaitedForIsSaid(t *testing.T) {
	t.Parallel()
	subject := requests.Subject{Kind: control.Experiment, Service: "shop", Name: "checkout"}
	status := func(id, service string) kv.Op {
		return kv.Op{Key: control.StatusKey("web", id), Value: []byte(`{"id": "` + id + `", "services": ["` + service + `"]}`), Any: true}
	}
	for name, c := range map[string]struct {
		there []kv.Op
		after time.Duration
		want  string
	}{
		"nobody": {nil, time.Minute, "experiment checkout: waiting for a sidecar that calls shop and follows these documents (control: {} in its bootstrap): so far none does\n"},
		"others": {[]kv.Op{status("web-1", "bank")}, time.Minute, "so far none does\n"},
		"nobody is elected": {[]kv.Op{status("web-1", "shop"), status("web-2", "shop")}, time.Minute,
			"experiment checkout: waiting for one of the 2 sidecars that follow the documents of shop to be elected\n"},
		"somebody is": {[]kv.Op{{Key: control.LeaderKey("shop"), Value: []byte(`{"id": "web-7"}`), Any: true}}, time.Minute,
			"experiment checkout: waiting for the sidecar web-7, which was elected for shop; if it is gone, another one is elected in a while\n"},
		"at once": {nil, time.Second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := memkv.New().Store()
				if len(c.there) > 0 {
					if err := store.Commit(t.Context(), c.there...); err != nil {
						t.Fatal(err)
					}
				}
				time.AfterFunc(c.after, func() {
					_ = store.Commit(t.Context(), kv.Op{Key: control.StateKey(subject.Kind, subject.Service, subject.Name), Value: []byte(`{"request": "3"}`), Any: true})
				})
				var said strings.Builder
				cmd := &cobra.Command{}
				cmd.SetErr(&said)
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				state, err := awaitAnswer(ctx, cmd, store, subject, 3)
				if late := c.after > 30*time.Second; late != errors.Is(err, context.DeadlineExceeded) || !late && state.GetRequest() != 3 {
					t.Errorf("%v, %v", state, err)
				}
				if got := said.String(); !strings.HasSuffix(got, c.want) || c.want == "" && got != "" {
					t.Errorf("it says %q, not %q", got, c.want)
				}
				time.Sleep(time.Minute) // until the state is written
			})
		})
	}
}
