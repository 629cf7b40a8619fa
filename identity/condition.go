package identity

import (
	"log/slog"
	"sync"
	"time"
)

// Condition is the [Status] of a source, as it changes. It logs when the source begins to
// fail, when it fails for another reason, and when it is well again. It is safe for
// concurrent use.
type Condition struct {
	o ConditionOptions

	mu     sync.Mutex
	status Status
}

// ConditionOptions say what is logged, and how. All are needed but Args.
type ConditionOptions struct {
	Logger *slog.Logger
	// Now is the clock.
	Now func() time.Time
	// Fails and Well are the log's messages.
	Fails, Well string
	// Args stand with both of them.
	Args []any
}

// NewCondition returns the condition of a source that is well.
func NewCondition(status Status, o ConditionOptions) *Condition {
	return &Condition{o: o, status: status}
}

// Status is that of [Source].
func (c *Condition) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Note notes why the source fails now; nil: it does not.
func (c *Condition) Note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.status.Err
	c.status.Err = err
	switch {
	case err == nil && before != nil:
		c.status.Since = time.Time{}
		c.o.Logger.Info(c.o.Well, c.o.Args...)
	case err != nil && (before == nil || before.Error() != err.Error()):
		if before == nil {
			c.status.Since = c.o.Now()
		}
		c.o.Logger.With(c.o.Args...).Warn(c.o.Fails, "error", err)
	}
}
