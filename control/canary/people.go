package canary

import (
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// Document returns the canary that a state runs, with its defaults. States in the history
// have none.
func Document(s *controlv1.RunState) (*configv1.Canary, error) { return readDocument(s) }
