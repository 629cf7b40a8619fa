// Package harness starts the real pillion binary and the programs that tests
// put around it, tells when they are ready, and ends them.
//
// It knows processes, addresses, configuration files and where tools are. What
// is to be proven stands in the tests that use it.
package harness
