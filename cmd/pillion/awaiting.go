package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/requests"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// silence is how long commands wait for the elected sidecar before they say so: to elect
// one first takes less.
const silence = 2 * time.Second

// awaitAnswer waits until a request was done or refused, and says on standard error what it
// waits for if that takes long.
func awaitAnswer(ctx context.Context, cmd *cobra.Command, store kv.Store, s requests.Subject, number uint64) (*controlv1.RunState, error) {
	waiting, answered := context.WithCancel(ctx)
	var saying sync.WaitGroup
	saying.Go(func() {
		select {
		case <-time.After(silence):
		case <-waiting.Done():
			return
		}
		if what := awaited(waiting, store, s.Service); waiting.Err() == nil {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s %s: waiting for %s\n", s.Kind, s.Name, what)
		}
	})
	defer saying.Wait()
	defer answered()
	return requests.Await(ctx, store, s, number)
}

// awaited says who has to do what is asked of a service's canaries and experiments.
func awaited(ctx context.Context, store kv.Store, service string) string {
	unmarshal := protojson.UnmarshalOptions{DiscardUnknown: true}
	if e, err := store.Get(ctx, control.LeaderKey(service)); err == nil {
		leader := &controlv1.Leader{}
		if unmarshal.Unmarshal(e.Value, leader) == nil && leader.GetId() != "" {
			return fmt.Sprintf("the sidecar %s, which was elected for %s; if it is gone, another one is elected in a while",
				documents.Printable(leader.GetId()), service)
		}
	}
	entries, err := store.List(ctx, control.StatusPrefix)
	if err != nil {
		return "the sidecar that is elected for " + service
	}
	followers := 0
	for _, e := range entries {
		status := &controlv1.SidecarStatus{}
		if unmarshal.Unmarshal(e.Value, status) == nil && slices.Contains(status.GetServices(), service) {
			followers++
		}
	}
	if followers == 0 {
		return fmt.Sprintf("a sidecar that calls %s and follows these documents (control: {} in its bootstrap): so far none does", service)
	}
	return fmt.Sprintf("one of the %d sidecars that follow the documents of %s to be elected", followers, service)
}
