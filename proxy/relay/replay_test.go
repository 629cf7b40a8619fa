package relay

import (
	"bytes"
	"runtime"
	"testing"

	"pgregory.net/rapid"
)

// What is kept is what came, in memory of at most twice that, whatever becomes of
// memory that was given back.
func TestReplayMemory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var replays, want [3][]byte
		for step := range 30 {
			i := rapid.IntRange(0, len(replays)-1).Draw(t, "which")
			if rapid.IntRange(0, 4).Draw(t, "what") == 0 {
				freeReplay(replays[i])
				replays[i], want[i] = nil, nil
				continue
			}
			p := bytes.Repeat([]byte{byte(step + 1)}, rapid.IntRange(0, 20<<10).Draw(t, "size"))
			replays[i] = appendReplay(replays[i], p)
			want[i] = append(want[i], p...)
			for j := range replays {
				if !bytes.Equal(replays[j], want[j]) {
					t.Fatalf("of %d bytes, what is kept differs", len(want[j]))
				}
			}
			if n := len(replays[i]); n > maxKeptReplay && n <= largestReplay && cap(replays[i]) > 2*n {
				t.Fatalf("%d bytes take %d", n, cap(replays[i]))
			}
		}
	})
}

// A request that is kept leaves little to the garbage collector.
func TestReplayMemoryIsUsedAgain(t *testing.T) {
	const (
		pieces, piece = 3, 16 << 10
		rounds        = 200
	)
	p := make([]byte, piece)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range rounds {
		var replay []byte
		for range pieces {
			replay = appendReplay(replay, p)
		}
		freeReplay(replay)
	}
	runtime.ReadMemStats(&after)
	if raceEnabled {
		return // pools forget at random then; what is checked is that nothing breaks
	}
	// Without pools it is twice that.
	if left := (after.TotalAlloc - before.TotalAlloc) / rounds; left > 5*pieces*piece/4 {
		t.Errorf("each %d bytes that were kept left %d bytes to be collected", pieces*piece, left)
	}
}
