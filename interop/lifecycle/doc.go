// Package lifecycle proves what a person or a service manager sees of the
// pillion command: how it starts, what it says about bad input, how it ends, and
// the demo. It has tests only.
package lifecycle
