package network

import (
	"container/heap"
	"math/rand/v2"
	"os"
	"sync"
	"time"
)

// Wire is what happens to packets in one direction between two hosts. The zero
// value delivers all of them at once.
type Wire struct {
	// Loss, Duplicate and Reorder are shares of the packets, 0 to 1. One that is
	// reordered comes up to 5ms after those that were sent behind it.
	Loss, Duplicate, Reorder float64
	// Delay is how long a packet is on its way, and up to Jitter more, which may
	// reorder them too.
	Delay, Jitter time.Duration
}

// Cut loses everything.
var Cut = Wire{Loss: 1}

// late is how much later a packet may come that is reordered.
const late = 5 * time.Millisecond

// fates says when the copies of one packet are delivered: none where it is lost.
func (w Wire) fates(dice *rand.Rand) []time.Duration {
	if dice.Float64() < w.Loss {
		return nil
	}
	copies := 1
	if dice.Float64() < w.Duplicate {
		copies = 2
	}
	after := make([]time.Duration, copies)
	for i := range after {
		after[i] = w.Delay
		if w.Jitter > 0 {
			after[i] += time.Duration(dice.Int64N(int64(w.Jitter)))
		}
		if dice.Float64() < w.Reorder {
			after[i] += time.Duration(dice.Int64N(int64(late)))
		}
	}

	return after
}

// inbox delivers packets to a host when they are due.
type inbox struct {
	tun *os.File

	mu      sync.Mutex
	packets due
	count   int
	more    chan struct{}
}

type packet struct {
	at     time.Time
	number int // of those that are due at the same time, the first goes first
	data   []byte
}

type due []packet

func (d *due) Len() int { return len(*d) }

func (d *due) Less(i, j int) bool {
	one, two := (*d)[i], (*d)[j]
	if one.at.Equal(two.at) {
		return one.number < two.number
	}

	return one.at.Before(two.at)
}

func (d *due) Swap(i, j int) { (*d)[i], (*d)[j] = (*d)[j], (*d)[i] }

func (d *due) Push(x any) { *d = append(*d, x.(packet)) }

func (d *due) Pop() any {
	last := (*d)[len(*d)-1]
	*d = (*d)[:len(*d)-1]

	return last
}

func newInbox(tun *os.File) *inbox { return &inbox{tun: tun, more: make(chan struct{}, 1)} }

func (b *inbox) put(data []byte, after time.Duration) {
	b.mu.Lock()
	b.count++
	heap.Push(&b.packets, packet{at: time.Now().Add(after), number: b.count, data: data})
	b.mu.Unlock()
	select {
	case b.more <- struct{}{}:
	default:
	}
}

// run delivers until stop is closed.
func (b *inbox) run(stop <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		b.mu.Lock()
		wait := time.Hour
		for len(b.packets) > 0 {
			if wait = time.Until(b.packets[0].at); wait > 0 {
				break
			}
			next := heap.Pop(&b.packets).(packet)
			b.mu.Unlock()
			_, _ = b.tun.Write(next.data) // a link that is down takes none
			b.mu.Lock()
			wait = time.Hour
		}
		b.mu.Unlock()

		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-b.more:
		case <-stop:
			return
		}
	}
}
