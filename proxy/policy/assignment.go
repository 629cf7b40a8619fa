package policy

import "sort"

// Assignment says which group of a sticky split a hash lies in, for those who know the
// hash alone (see telemetry.Outcome.Unit).
type Assignment struct{ segments []segment }

// NewAssignment lays groups out by their weights, whose sum is 10,000, as a split does.
func NewAssignment(weights []int) Assignment { return Assignment{layOut(weights)} }

// Group returns the number of the group.
func (a Assignment) Group(hash uint64) int {
	bucket := share(hash)
	i := sort.Search(len(a.segments)-1, func(i int) bool { return a.segments[i].end > bucket })
	return int(a.segments[i].group)
}
