package mesh

import (
	"math"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/control/observe"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// Bounds of what one report may hold. What is counted in it is bounded by the size of the
// report besides.
const (
	maxRuns     = 256  // canaries, and experiments
	maxDocument = 128  // bytes of a document's name
	maxText     = 1024 // bytes of the name of a guard, or a reason
	maxVariants = 16
	maxMeasures = 32     // those of the document, and the two of every experiment
	maxUnits    = 200000 // of all experiments in a report
	maxSources  = 64     // that one has heard of
)

// check says why a report is none that a sidecar makes. The numbers in it are for those
// to judge who count.
func check(r *meshv1.ReportRequest) error {
	if len(r.GetCanaries()) > maxRuns || len(r.GetExperiments()) > maxRuns || len(r.GetHeard()) > 2*maxRuns {
		return wrong("it is about too many canaries or experiments")
	}
	for _, c := range r.GetCanaries() {
		switch {
		case !isName(c.GetName()) || len(c.GetName()) > maxDocument:
			return wrong("a canary has no name that could be one")
		case c.GetTripped() != "" && (!isName(c.GetTripped()) || len(c.GetTripped()) > maxDocument):
			return wrong("a guard has no name that could be one")
		case len(c.GetReason()) > maxText:
			return wrong("a reason is too long")
		}
		for _, g := range []*meshv1.GroupCounts{c.GetStable(), c.GetCanary()} {
			if len(g.GetCodes()) > observe.Codes || len(g.GetBuckets()) > observe.Buckets {
				return wrong("a canary has more statuses or buckets than there are")
			}
		}
	}
	for _, h := range r.GetHeard() {
		if !isName(h.GetName()) || len(h.GetName()) > maxDocument {
			return wrong("a state is of nothing that has a name")
		}
	}
	units := 0
	for _, e := range r.GetExperiments() {
		units += len(e.GetUnits())
		switch {
		case !isName(e.GetName()) || len(e.GetName()) > maxDocument:
			return wrong("an experiment has no name that could be one")
		case units > maxUnits:
			return wrong("there are too many units")
		case len(e.GetHeard().GetList()) > maxSources:
			return wrong("it has heard of more than is said")
		}
		for _, u := range e.GetUnits() {
			if err := checkUnit(u); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkUnit(u *meshv1.UnitCounts) error {
	if u.GetVariant() >= maxVariants || len(u.GetMeasures()) > maxMeasures {
		return wrong("a unit has a variant or measures beyond what there can be")
	}
	for _, m := range u.GetMeasures() {
		if sum := m.GetSum(); math.IsNaN(sum) || math.IsInf(sum, 0) {
			return wrong("a measure is not a number")
		}
	}
	return nil
}

func wrong(why string) error {
	return status.Error(codes.InvalidArgument, "control: the report cannot be taken: "+why)
}
