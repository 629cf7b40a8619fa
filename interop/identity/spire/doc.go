// Package spire proves that a real SPIRE gives sidecars their identity, and that nobody
// notices when it renews certificates and replaces its authority. It is not part of make
// test, because SPIRE takes long to compile: make spire.
package spire
