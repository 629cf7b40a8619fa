// Package consulmesh proves the whole sidecar with a real Consul, while RPCs
// run: what registers, who is found, and that nobody notices what happens to
// instances, to their health, and to Consul itself.
package consulmesh
