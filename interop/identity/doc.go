// Package identity proves mutual TLS, and who may call what, with programs that are not
// ours: Consul's CA and its intentions, and Envoys as Consul configures them.
package identity
