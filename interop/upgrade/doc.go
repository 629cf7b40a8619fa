// Package upgrade proves that a sidecar can be replaced while RPCs run: in place on
// SIGHUP, by a restart after a crash, and under systemd's hands. It has tests only.
package upgrade
