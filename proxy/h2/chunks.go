package h2

import "sync"

// chunks is a queue of bytes in pieces of pooled memory: bulk streams whose
// output is parked again and again leave nothing to the garbage collector.
type chunks struct {
	list []*[]byte
	off  int // bytes of the first piece that are gone
	len  int
}

// The sizes of pieces: most of what is parked is either a small message or a part
// of a large one.
const (
	smallChunk = 1 << 10
	largeChunk = 16 << 10
)

var (
	smallChunks = chunkPool(smallChunk)
	largeChunks = chunkPool(largeChunk)
)

func chunkPool(size int) *sync.Pool {
	return &sync.Pool{New: func() any {
		b := make([]byte, 0, size)
		return &b
	}}
}

// append copies p to the end of the queue.
func (q *chunks) append(p []byte) {
	q.len += len(p)
	for len(p) > 0 {
		if len(q.list) == 0 || room(q.list[len(q.list)-1]) == 0 {
			pool := largeChunks
			if len(q.list) == 0 && len(p) <= smallChunk {
				pool = smallChunks
			}
			q.list = append(q.list, pool.Get().(*[]byte))
		}
		last := q.list[len(q.list)-1]
		n := min(len(p), room(last))
		*last = append(*last, p[:n]...)
		p = p[n:]
	}
}

func room(piece *[]byte) int { return cap(*piece) - len(*piece) }

// pop moves n bytes, which must be there, from the front of the queue to dst.
func (q *chunks) pop(dst []byte, n int) []byte {
	q.len -= n
	gone := 0
	for _, piece := range q.list {
		part := (*piece)[q.off:min(q.off+n, len(*piece))]
		dst = append(dst, part...)
		n -= len(part)
		q.off += len(part)
		if q.off < len(*piece) {
			break
		}
		freeChunk(piece)
		q.off = 0
		gone++
	}
	q.list = append(q.list[:0], q.list[gone:]...) // as many as a window has pieces
	return dst
}

// free empties the queue.
func (q *chunks) free() {
	for i, piece := range q.list {
		freeChunk(piece)
		q.list[i] = nil
	}
	*q = chunks{list: q.list[:0]}
}

func freeChunk(piece *[]byte) {
	pool := largeChunks
	if cap(*piece) == smallChunk {
		pool = smallChunks
	}
	*piece = (*piece)[:0]
	pool.Put(piece)
}
