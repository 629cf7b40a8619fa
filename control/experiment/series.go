package experiment

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

const (
	// maxPoints bounds a series: where there are as many, every second one goes, and
	// there are half as many from then on.
	maxPoints = 200
	// firstSpacing is how far apart the first points are.
	firstSpacing = time.Second
)

// series is how the means stood earlier.
type series struct {
	points  []*meshv1.ResultsPoint
	spacing time.Duration
}

// restore takes over points that were kept.
func (s *series) restore(points []*meshv1.ResultsPoint) {
	s.points = points[max(0, len(points)-maxPoints):]
	s.spacing = firstSpacing
	if n := len(s.points); n > 1 {
		// What is left of thinning is evenly spaced, but for when nobody was elected.
		length := s.points[n-1].GetTime().AsTime().Sub(s.points[0].GetTime().AsTime())
		for s.spacing < length/maxPoints {
			s.spacing *= 2
		}
	}
}

// due says how long it is until the next point.
func (s *series) due(now time.Time) time.Duration {
	if len(s.points) == 0 {
		return 0
	}
	return s.points[len(s.points)-1].GetTime().AsTime().Add(max(s.spacing, firstSpacing)).Sub(now)
}

// add adds a point.
func (s *series) add(now time.Time, variants []*meshv1.VariantResults) {
	point := &meshv1.ResultsPoint{Time: timestamppb.New(now)}
	for _, v := range variants {
		at := &meshv1.VariantPoint{}
		for _, m := range v.GetMeasures() {
			at.Measures = append(at.Measures, &meshv1.MeasurePoint{Units: m.GetUnits(), Mean: m.GetMean(), Variance: m.GetVariance()})
		}
		point.Variants = append(point.Variants, at)
	}
	s.points = append(s.points, point)
	if len(s.points) < maxPoints {
		return
	}
	s.points = thinned(s.points)
	s.spacing = 2 * max(s.spacing, firstSpacing)
}

// thinned leaves every second point, and the last one, in a list of its own.
func thinned(points []*meshv1.ResultsPoint) []*meshv1.ResultsPoint {
	list := make([]*meshv1.ResultsPoint, 0, len(points)/2+1)
	for i, p := range points {
		if (len(points)-1-i)%2 == 0 {
			list = append(list, p)
		}
	}
	return list
}
