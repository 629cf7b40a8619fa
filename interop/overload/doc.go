// Package overload asks a sidecar, and apps through it, for more than they can
// do: what is refused, how soon, at what cost, and that those who were not refused
// do not suffer. Everything here comes back by itself once the load is gone.
package overload
