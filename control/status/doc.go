// Package status is what sidecars say of themselves in the store, and what that comes to
// for the mesh as a whole: who runs, which version of what each obeys, who lags behind,
// who has refused what.
package status
