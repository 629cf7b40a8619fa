package relay

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/wire"
)

// timeoutSlack is what the instance is told above the time that remains, though
// never more than the caller gave: it is for Pillion to answer when the deadline
// passes, with a message that says where the time went.
const timeoutSlack = 5 * time.Millisecond

// maxTimeout is more than anybody waits, and leaves room for sums.
const maxTimeout = 100 * 365 * 24 * time.Hour

// startDeadline reads grpc-timeout and sets the timer. The time counts from the
// arrival of the headers. r.mu is held.
func (r *RPC) startDeadline() error {
	var timeout time.Duration
	if r.timeoutAt == twoTimeouts { // only one of them could be told how much remains
		return errors.New("grpc-timeout stands there more than once: want one")
	}
	if r.timeoutAt >= 0 {
		d, err := wire.ParseTimeout(r.block.Fields[r.timeoutAt].Value)
		if err != nil {
			return err
		}
		timeout = min(max(d, 1), maxTimeout)
		// Its clock may be a little faster than ours.
		r.down.Patience(timeout - timeout/10)
	} else if timeout = r.p.cfg.DefaultTimeout; timeout > 0 {
		r.capped = true
	}
	if limit := r.p.cfg.MaxTimeout; limit > 0 && (timeout == 0 || timeout > limit) {
		timeout, r.capped = limit, true
	}
	if timeout == 0 {
		return nil
	}
	r.setDeadline(timeout)
	return nil
}

// setDeadline sets the timer, from the arrival of the headers on. r.mu is held.
func (r *RPC) setDeadline(timeout time.Duration) {
	r.deadline = timeout
	r.timer.set(r.begun, r.begun+timeout)
}

// expired says that the deadline has passed. r.mu is held.
func (r *RPC) expired(b *h2.Batch) bool {
	return r.deadline > 0 && b.Now().Sub(r.start) >= r.deadline
}

// onDeadline is called by the timer, perhaps for an RPC that is over, or for the next
// one in the same memory, whose deadline may be later or that has none.
func (r *RPC) onDeadline() {
	var b h2.Batch
	defer b.Done()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.timer.rang()
	if r.phase == phaseDone || !r.isOpen || r.deadline == 0 {
		return
	}
	if !r.expired(&b) {
		r.timer.set(b.Now().Sub(r.p.made), r.begun+r.deadline)
		return
	}
	if r.phase == phaseRefusing {
		r.sendRefusal(&b)
		return
	}
	r.failDeadline(&b)
}

// failDeadline answers an RPC whose deadline has passed. r.mu is held.
func (r *RPC) failDeadline(b *h2.Batch) {
	where := "while its destination was looked up"
	if r.early {
		where = "while its request was incomplete, as too many are (overload.adaptive_concurrency)"
	}
	flag := wire.FlagDeadline
	if why, as := r.waitsFor(); why != "" {
		where, flag = why, as
	} else if a := r.cur; a != nil {
		if a.waiting {
			where = fmt.Sprintf("while connecting to %s of service %q", a.inst, r.dest.Name())
		} else {
			where = fmt.Sprintf("while waiting for %s of service %q", a.inst, r.dest.Name())
		}
		r.judgeLate(b)
	}
	r.failWith(b, codes.DeadlineExceeded, flag,
		fmt.Sprintf("deadline of %v exceeded %s", r.deadline, where), h2.Cancel)
}

// timeoutValue writes a timeout as the instance is told it. One that a policy gives
// each attempt is the same for many RPCs. r.mu is held.
func (r *RPC) timeoutValue(told time.Duration) string {
	var text [16]byte
	if r.pol == nil {
		return string(wire.AppendTimeout(text[:0], told))
	}
	if r.pol.told != told {
		r.pol.told, r.pol.toldText = told, string(wire.AppendTimeout(text[:0], told))
	}
	return r.pol.toldText
}

// tellTimeout writes into the request how much time remains for the instance.
// r.mu is held.
func (r *RPC) tellTimeout(b *h2.Batch) {
	limit := r.deadline
	told := limit - b.Now().Sub(r.start) + timeoutSlack
	switch per := r.perAttempt(); {
	case per > 0 && (limit == 0 || per+timeoutSlack < min(told, limit)):
		told = per + timeoutSlack // the policy's is the shorter one
		if limit == 0 {
			limit = maxTimeout
		}
	case limit == 0:
		return
	case told >= limit:
		if !r.capped {
			return // what the caller wrote still holds
		}
		told = limit
	}
	if told > 100*time.Millisecond {
		told = min((told + time.Millisecond - 1).Truncate(time.Millisecond), limit)
	}
	value := r.timeoutValue(max(told, 1))
	if r.timeoutAt < 0 {
		r.timeoutAt = int32(len(r.block.Fields))
		r.block.Fields = append(r.block.Fields, hpack.Field{Name: wire.HeaderTimeout})
	}
	r.block.Fields[r.timeoutAt].Value = value
}
