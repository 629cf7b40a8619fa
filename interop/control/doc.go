// Package control holds the tests of the control plane against real Consul agents and real
// processes.
package control
