package upstream

import "time"

// backoff is how long an instance to which no connection could be made is left
// alone. It is guarded by Instance.mu.
type backoff struct {
	failures int // in a row
	retryAt  time.Time
	lastErr  error
	retry    *time.Timer
}

// failed notes another failure; retry is called when it is time to try again.
func (f *backoff) failed(o *Options, err error, retry func()) {
	wait := float64(o.BackoffBase)
	for range f.failures {
		if wait *= 1.6; wait >= float64(o.BackoffMax) {
			break
		}
	}
	wait = min(wait, float64(o.BackoffMax)) * (0.8 + 0.4*o.Jitter())
	f.stop()
	f.failures++
	f.lastErr = err
	f.retryAt = time.Now().Add(time.Duration(wait))
	f.retry = time.AfterFunc(time.Duration(wait), retry)
}

// connected ends the back-off. Whether the next one is longer is decided by what
// comes over the connection: an instance may accept any number of them, and answer
// nothing.
func (f *backoff) connected() {
	f.stop()
	f.retryAt = time.Time{}
}

// succeeded has the next back-off begin at its base again.
func (f *backoff) succeeded() {
	f.stop()
	*f = backoff{}
}

// holds says whether it is too early to try again.
func (f *backoff) holds() bool { return time.Now().Before(f.retryAt) }

func (f *backoff) stop() {
	if f.retry != nil {
		f.retry.Stop()
	}
}
