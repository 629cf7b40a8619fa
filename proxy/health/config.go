package health

import "time"

// Config says how instances are asked. Its defaults are the schema's
// (pillion.config.v1.HealthCheckPolicy).
type Config struct {
	// Policy names it in messages.
	Policy string
	// Service is what is asked about; empty: the whole server.
	Service string
	// Watch has the instance asked once, and tell of changes (gRFC A17).
	Watch bool
	// Interval is how often it is asked; Timeout how long an answer may take.
	Interval, Timeout time.Duration
	// Unhealthy and Healthy are how many answers in a row must be bad, and good
	// again.
	Unhealthy, Healthy int
}
