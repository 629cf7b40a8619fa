package control

import (
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/kvtest"
	agents "github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/registry/consul"
)

// One after the other: each wants a store with nothing in it.
func TestConsulKeepsWhatStoresKeep(t *testing.T) {
	t.Parallel()

	agent := agents.Start(t)
	for _, c := range kvtest.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			_, err := agent.Client.KV().DeleteTree("", nil)
			must(t, err)
			way := newCuttable(t)
			a, _ := openStore(t, agent, consul.Config{}, way)
			b, _ := openStore(t, agent, consul.Config{}, nil)
			c.Test(t, kvtest.Rig{
				A: a, B: b,
				Lose: func(t *testing.T, _ kv.Session) {
					sessions, _, err := agent.Client.Session().List(nil)
					must(t, err)
					// The one that holds p/l.
					pair, _, err := agent.Client.KV().Get("p/l", &api.QueryOptions{RequireConsistent: true})
					must(t, err)
					for _, session := range sessions {
						if session.ID == pair.Session {
							_, err := agent.Client.Session().Destroy(session.ID, nil)
							must(t, err)
						}
					}
				},
				Break: func(*testing.T) func() {
					way.set(true)

					return func() { way.set(false) }
				},
			})
		})
	}
}
