// Package policy proves what policies do in real processes: what clients see while
// instances fail or become slow, and what instances see of it.
//
// Its tests are about counts and ratios, so that they hold on a slow machine. How the
// parts decide is tested beside them, on virtual time.
package policy
