package consul

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/consul/api"
)

// NodeAddress returns the address that the agent's node has for others: what an instance
// has in the catalogue that is registered without an address of its own. It needs the
// permission agent:read.
func (s *Source) NodeAddress(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.agent.limits.CallTimeout)
	defer cancel()
	var self struct {
		Member struct{ Addr string }
	}
	_, err := s.agent.api.Raw().Query("/v1/agent/self", &self, (&api.QueryOptions{}).WithContext(ctx))
	if err == nil && self.Member.Addr == "" {
		err = errors.New("the agent does not say it")
	}
	if err != nil {
		return "", fmt.Errorf("consul: the node's address, from the agent at %s: %w", s.agent.address, oneLine(err))
	}
	return self.Member.Addr, nil
}
