// Package experiment divides units, such as users, among variants, counts what comes of
// their RPCs, and pools that where it is compared. It does not say what the figures mean:
// that is for package report.
//
// Every sidecar has an [Agent]. It turns the states of experiments into split policies,
// by which the same unit has the same variant on every sidecar, and counts for each unit,
// by its hash, what its RPCs come to. The sidecar that is elected for a service (see
// package mesh) has a Lead beside it, which adds up what all counted of a unit,
// and compares variants over units.
//
// # Bounds
//
// A sidecar keeps at most `max_units` units of an experiment. When they are more, the
// threshold of hashes is halved, and those above it are forgotten: what is left is a
// sample that does not depend on what came of them, or when they came. The elected
// sidecar has all take the lowest threshold there is, so that a unit that is kept is kept
// everywhere and its RPCs are all there.
//
// # What is lost
//
// Counts are cumulative, so a report that is lost does no harm. With a folder to keep
// them in, a sidecar loses nothing by a restart, and the RPCs of ten seconds at most when
// its process is killed. Whoever is elected is told by all sidecars again what they have
// counted; what sidecars had counted that are gone for good is known to those alone that
// were elected while they lived.
package experiment
