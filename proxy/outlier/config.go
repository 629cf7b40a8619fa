package outlier

import (
	"time"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

// Config says when an instance is left alone and for how long. It has no defaults of
// its own but where a field says so: those are the schema's
// (pillion.config.v1.OutlierEjectionPolicy).
type Config struct {
	// Policy names it in messages.
	Policy string
	// Interval is how often the shares of failures are looked at.
	Interval time.Duration
	// BaseTime is how long an instance is left alone, for each time that it was
	// lately; MaxTime, or BaseTime where that is longer, is the longest.
	BaseTime, MaxTime time.Duration
	// MaxPercent is how many instances are left alone at a time at the most; one may
	// always be, the last never.
	MaxPercent int
	// Failures are the statuses that count as failures.
	Failures wire.CodeSet
	// ConsecutiveFailures is after how many failures in a row an instance is left
	// alone at once; 0: they do not matter.
	ConsecutiveFailures int
	// SuccessRate compares each instance with the mean; nil: not.
	SuccessRate *SuccessRate
	// FailurePercentage compares each instance with a threshold; nil: not.
	FailurePercentage *FailurePercentage
}

// SuccessRate is gRFC A50's success_rate_ejection.
type SuccessRate struct {
	StdevFactor           int // in 1/1,000
	EnforcementPercentage int
	MinimumHosts          int
	RequestVolume         int
}

// FailurePercentage is gRFC A50's failure_percentage_ejection.
type FailurePercentage struct {
	Threshold             int
	EnforcementPercentage int
	MinimumHosts          int
	RequestVolume         int
}
