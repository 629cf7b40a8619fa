package retry

import (
	"fmt"
	"strings"
	"time"
)

// Look says in words what of the limits is used for a service; "" where nothing was
// counted for it yet. It changes nothing.
func (l *Limits) Look(service string, now time.Time) string {
	if l == nil {
		return ""
	}
	a := (*l.known.Load())[service]
	if a == nil {
		return ""
	}
	var says []string
	if b := a.budget; b != nil {
		rpcs, extra := b.look(now)
		says = append(says, fmt.Sprintf("%.0f of %.0f further attempts in %d s (%.0f RPCs)", extra, b.allowed(rpcs), windowSeconds, rpcs))
	}
	if t := a.throttle; t != nil {
		text := fmt.Sprintf("%.4g of %d tokens", float64(t.most-t.missing.Load())/thousand, t.most/thousand)
		if !t.allowed() {
			text += ", too few"
		}
		says = append(says, text)
	}
	return strings.Join(says, "; ")
}

func (b *budget) look(now time.Time) (rpcs, extra float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sum(b.second(now))
}
