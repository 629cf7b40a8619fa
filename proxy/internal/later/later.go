// Package later does things one after the other, away from who asks for it: who
// finds out what is to be logged may hold a lock, and a log may be slow.
package later

import "sync"

// Most bounds what waits.
const Most = 1000

// Queue is things to be done. The zero value is ready. It has a goroutine only as
// long as there is something to do.
type Queue struct {
	mu    sync.Mutex
	queue []func()
	busy  bool
}

// Do has f called, however much waits.
func (q *Queue) Do(f func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.add(f)
}

// Offer is Do, unless as much waits as may: then it is false.
func (q *Queue) Offer(f func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) >= Most {
		return false
	}
	q.add(f)
	return true
}

// add queues f. q.mu is held.
func (q *Queue) add(f func()) {
	q.queue = append(q.queue, f)
	if !q.busy {
		q.busy = true
		go q.work()
	}
}

func (q *Queue) work() {
	for {
		q.mu.Lock()
		queue := q.queue
		q.queue = nil
		q.busy = len(queue) > 0
		q.mu.Unlock()
		if len(queue) == 0 {
			return
		}
		for _, f := range queue {
			f()
		}
	}
}
