package relay

import (
	"math/bits"
	"slices"
	"sync"
)

// Requests that are kept for another attempt and are longer than maxKeptReplay live
// in memory that is used again. Most uploads begin like that, and to leave as much to
// the garbage collector as they bring would cost all RPCs.
const (
	// smallestReplay and largestReplay are the sizes of what is used again, with the
	// powers of two between them.
	smallestReplay = 2 * maxKeptReplay
	largestReplay  = 64 << 10
)

var replays [4]sync.Pool // of *[]byte, from smallestReplay to largestReplay

// replayClass returns the smallest of replays whose memory takes n bytes, -1 where
// none is meant for that.
func replayClass(n int) int {
	if n <= maxKeptReplay || n > largestReplay {
		return -1
	}
	return bits.Len(uint(n-1)) - bits.Len(uint(smallestReplay-1))
}

// appendReplay appends p to what is kept of a request.
func appendReplay(replay, p []byte) []byte {
	n := len(replay) + len(p)
	class := replayClass(n)
	if n <= cap(replay) || class < 0 {
		return append(replay, p...)
	}
	var larger []byte
	if used, ok := replays[class].Get().(*[]byte); ok {
		larger = *used
	} else {
		larger = slices.Grow(larger, smallestReplay<<class)
	}
	larger = append(append(larger[:0], replay...), p...)
	freeReplay(replay)
	return larger
}

// freeReplay gives back memory that is not kept with the RPC.
func freeReplay(replay []byte) {
	size := cap(replay)
	if class := replayClass(size); class >= 0 && size == smallestReplay<<class {
		replays[class].Put(&replay)
	}
}
