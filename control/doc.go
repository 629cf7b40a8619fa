// Package control says where in a store (see package kv) the documents of the mesh are,
// and what sidecars and people write about them. What it all means is for the packages
// below:
//
//	kv          a store of keys: Consul's KV, a folder, memory
//	documents   people's side: apply, get, diff, history, rollback, delete
//	follow      a sidecar's side: what holds for the services in use
//	plan        says what a change would do, before it is done
//	status      what sidecars say of themselves
//	observe     counts what came of a group's RPCs
//	sequential  tests that may be looked at after every RPC
//	canary      canaries: on each sidecar, and on the one that decides
//	experiment  experiments: on each sidecar, and where they are pooled and compared
//	ledger      what an elected sidecar writes: states and their history
//	requests    people's side of canaries and experiments: asks, waits, reads
//	hooks       tells others of transitions
//	mesh        what sidecars say to the one that is elected, and the election
package control
