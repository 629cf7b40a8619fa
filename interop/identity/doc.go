// Package identity proves mutual TLS, and who may call what, with programs that are not
// ours: Consul's CA and its intentions, Envoys as Consul configures them, h2spec, and
// peers that try to get through with what proves nothing.
package identity
