package mesh

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// chunks makes several reports of one that is larger than about so many bytes: each has
// some of the units. A unit is never split.
func chunks(r *meshv1.ReportRequest, most int) []*meshv1.ReportRequest {
	if proto.Size(r) <= most {
		return []*meshv1.ReportRequest{r}
	}
	at := &meshv1.ReportRequest{Hello: r.GetHello(), Canaries: r.GetCanaries(), Heard: r.GetHeard()}
	list := []*meshv1.ReportRequest{at}
	size := proto.Size(at)
	for _, e := range r.GetExperiments() {
		var part *meshv1.ExperimentCounts
		begin := func() {
			if size >= most {
				at, size = new(meshv1.ReportRequest), 0
				list = append(list, at)
			}
			part = &meshv1.ExperimentCounts{Name: e.GetName(), Run: e.GetRun(), Threshold: e.GetThreshold(), Epoch: e.GetEpoch()}
			at.Experiments = append(at.Experiments, part)
			size += proto.Size(part)
		}
		begin()
		part.Heard = e.GetHeard()
		size += proto.Size(part.GetHeard())
		for _, unit := range e.GetUnits() {
			if size >= most {
				begin()
			}
			part.Units = append(part.Units, unit)
			size += 1 + protowire.SizeBytes(proto.Size(unit))
		}
	}
	return list
}
