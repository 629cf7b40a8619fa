// Package abuse proves that a real sidecar stands what hostile peers do to it:
// its memory stays within a bound, whoever attacks is ended with the right code,
// and the RPCs of well-behaved clients beside it go on. Package attack holds the
// attackers.
package abuse
