package h2

import (
	"sync"
	"testing"
)

// A goroutine may be about to tell an owner of a stream's end or progress while
// the owner uses the stream for another exchange already. The race detector
// watches.
func TestLateEventMeetsANewLife(t *testing.T) {
	simulated(t, func(t *testing.T) {
		old, fresh := newClient(t, Config{}), newClient(t, Config{})
		o := &lastGen{}
		o.s.Init(o)
		var late Batch
		gen, err := old.c.Open(&late, &o.s, fields(get...), true)
		if err != nil {
			t.Fatal(err)
		}
		do(func(b *Batch) { o.s.Reset(b, Cancel) })

		var both sync.WaitGroup
		both.Go(func() {
			late.deliver(event{kind: eventTaken, stream: &o.s, gen: gen, n: 1})
		})
		both.Go(func() {
			do(func(b *Batch) {
				if _, err := fresh.c.Open(b, &o.s, fields(get...), true); err != nil {
					t.Error(err)
				}
			})
		})
		both.Wait()
		late.Done()
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.gen != gen {
			t.Errorf("the late event was of life %d, not %d", o.gen, gen)
		}
	})
}

// lastGen is an owner that remembers the life that OnTaken was meant for.
type lastGen struct {
	answerer
	mu  sync.Mutex
	gen uint32
}

func (o *lastGen) OnTaken(_ *Batch, _ *Stream, gen uint32, _ int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gen = gen
}
