package mtls

import "sync"

// readSize is how much ciphertext one read brings at most. With what the engine carries
// over, which is rarely more than a frame of 16 KiB, the plaintext fits into one of its
// buffers.
const readSize = 48 << 10

type readBuffer [readSize]byte

var readBuffers = sync.Pool{New: func() any { return new(readBuffer) }}

// input is ciphertext that has come and is not decrypted yet. It implements [h2.Lender]:
// it has a buffer only while something is in it.
type input struct {
	buffer *readBuffer
	rest   []byte // a part of buffer
}

// Lend implements h2.Lender. Nothing is in the input.
func (in *input) Lend() []byte {
	in.buffer = readBuffers.Get().(*readBuffer)
	return in.buffer[:]
}

// Return implements h2.Lender.
func (in *input) Return() {
	if in.buffer != nil {
		readBuffers.Put(in.buffer)
	}
	in.buffer, in.rest = nil, nil
}

// filled says how much a read has brought.
func (in *input) filled(n int) { in.rest = in.buffer[:n] }

// used takes n octets out.
func (in *input) used(n int) {
	if in.rest = in.rest[n:]; len(in.rest) == 0 {
		in.Return()
	}
}
