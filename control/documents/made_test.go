package documents_test

import (
	"github.com/pillion-proxy/pillion/control/canary"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/experiment"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

func init() {
	documents.Made = func(d *controlv1.Document) *configv1.Policy {
		if c := d.GetCanary(); c != nil {
			return canary.Policy(c, 5000)
		}
		if e := d.GetExperiment(); e != nil {
			return experiment.Policy(e)
		}
		return nil
	}
}
