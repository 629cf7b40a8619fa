// Package soak runs sidecars for minutes or hours while everything around them
// changes, fails and attacks at once, and proves that they are afterwards what
// they were before: `make soak`.
//
// Whether each single fault is dealt with as it should be is proven elsewhere
// (interop/abuse, interop/faults, interop/overload). Here is judged what only
// time and coincidence show: that nothing leaks, and that RPCs which nothing
// disturbs do not fail.
package soak
