package h2

import (
	"testing"

	"pgregory.net/rapid"
)

// A queue gives back what was put in, in order, however it is taken out.
func TestChunksAreAQueueOfBytes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var q chunks
		var model []byte
		next := byte(0)
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				p := make([]byte, rapid.SampledFrom([]int{0, 1, 105, 1 << 10, 1<<10 + 1, 16 << 10, 70_000}).Draw(t, "bytes"))
				for i := range p {
					next++
					p[i] = next
				}
				q.append(p)
				model = append(model, p...)
			},
			"pop": func(t *rapid.T) {
				n := rapid.IntRange(0, len(model)).Draw(t, "bytes")
				if got := q.pop([]byte("x"), n); string(got) != "x"+string(model[:n]) {
					t.Fatal("what comes out is not what was put in first")
				}
				model = model[n:]
			},
			"free": func(*rapid.T) {
				q.free()
				model = nil
			},
			"": func(t *rapid.T) {
				if q.len != len(model) {
					t.Fatalf("it holds %d bytes, want %d", q.len, len(model))
				}
			},
		})
	})
}
