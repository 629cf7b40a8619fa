// Package canary shows that canaries keep their word with real processes and a real
// Consul: five sidecars of callers, two versions of a service, 1,000 RPCs a second.
package canary
