// Package telemetry counts RPCs and writes the access log. It does not decide
// what becomes of an RPC: who carries one tells it. Nor does it serve what it
// counted: Metrics and Counters are Prometheus collectors, to be registered
// where /metrics is served.
//
// On an RPC's path it costs one map lookup (Metrics.Method) and a few atomic
// additions, and it allocates nothing there. Labels and everything else that
// Prometheus wants are made at the scrape.
package telemetry
