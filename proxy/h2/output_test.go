package h2

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestDataWaitsForTheStreamsWindow(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, o := openStreamWith(t, Config{Budget: NewBudget(1 << 20)}, role, initialWindow(10))
			o.log()
			if n := o.write(7, false); n != 7 {
				t.Errorf("%d of 7 bytes went on at once", n)
			}
			if n := o.write(7, false); n != 3 {
				t.Errorf("%d of 7 bytes went on at once", n)
			}
			if n := o.write(20, false); n != 0 {
				t.Errorf("%d bytes went on at once", n)
			}
			if n := r.c.cfg.Budget.Used(); n != 24 {
				t.Errorf("%d bytes are kept", n)
			}
			want(t, "what the window allows", r.frames(), "DATA 1 7", "DATA 1 3")
			r.must(r.WriteWindowUpdate(1, 5))
			want(t, "5 more", r.frames(), "DATA 1 5")
			if n := r.c.cfg.Budget.Used(); n != 19 {
				t.Errorf("%d bytes are kept", n)
			}
			o.write(0, true)
			r.must(r.WriteWindowUpdate(1, 19))
			want(t, "the rest", r.frames(), append([]string{"DATA 1 19 end"}, earlyEnd(role)...)...)
			log := o.log()
			want(t, "what the owner is told", log[:2], "taken 5", "taken 19")
			if n := r.c.cfg.Budget.Used(); n != 0 {
				t.Errorf("%d bytes are kept", n)
			}
		})
	})
}

// earlyEnd is what follows the end of an answer that comes before the request's.
func earlyEnd(role Role) []string {
	if role == Server {
		return []string{"RST_STREAM 1 NO_ERROR"}
	}
	return nil
}

func TestTrailersWaitForData(t *testing.T) {
	for name, window := range map[string]uint32{"with a window of 0": 0, "with some of the data out": 4} {
		t.Run(name, func(t *testing.T) {
			bothRoles(t, func(t *testing.T, role Role) {
				simulated(t, func(t *testing.T) {
					r, o := openStream(t, role, initialWindow(window))
					o.write(10, false)
					o.send(true, "grpc-status", "0")
					r.frames()
					r.must(r.WriteWindowUpdate(1, 9-window))
					want(t, "all but one byte", r.frames(), fmt.Sprintf("DATA 1 %d", 9-window))
					r.must(r.WriteWindowUpdate(1, 5))
					want(t, "the rest", r.frames(), append([]string{"DATA 1 1", "HEADERS 1 end grpc-status=0"}, earlyEnd(role)...)...)
				})
			})
		})
	}
}

// An end without bytes needs no window.
func TestEndNeedsNoWindow(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, o := openStream(t, role, initialWindow(0))
			o.write(0, true)
			want(t, "the end", r.frames(), append([]string{"DATA 1 0 end"}, earlyEnd(role)...)...)
		})
	})
}

// The connection's window is shared out in turns, and a stream without a window
// of its own does not hold up the others.
func TestDataWaitsForTheConnectionsWindow(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{Budget: NewBudget(1 << 30)}, initialWindow(1<<20))
		a, b := r.open(false, post...), r.open(false, post...)
		a.write(100000, false)
		b.write(50000, true)
		r.frames()
		if a.taken+b.taken == 0 || r.c.sendWindow != 0 {
			t.Fatalf("the window of %d is not used up", r.c.sendWindow)
		}
		r.must(r.WriteWindowUpdate(0, 20))
		want(t, "20 bytes", r.frames(), "DATA 1 20")
		r.must(r.WriteWindowUpdate(0, 30))
		want(t, "30 bytes", r.frames(), "DATA 3 30")
		c := r.open(false, post...)
		c.write(5, true)
		r.must(r.WriteWindowUpdate(0, 2))
		want(t, "2 bytes", r.frames(), "HEADERS 5*", "DATA 1 2")
		a.rst(Cancel)
		r.must(r.WriteWindowUpdate(0, 1<<20))
		lines := r.frames()
		want(t, "the rest", lines[:1], "RST_STREAM 1 CANCEL")
		if log := strings.Join(lines, ","); !strings.Contains(log, "DATA 5 5 end") || !strings.Contains(log, "DATA 3") {
			t.Errorf("the rest is %q", lines)
		}
		r.end.Close()
	})
}

// Between bulk streams and a small one, turns are fair.
func TestBulkDoesNotQueueAheadOfASmallStream(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{}, initialWindow(1<<30))
		r.must(r.WriteWindowUpdate(0, 1<<30))
		r.frames()
		bulk := []*recorder{r.open(false, post...), r.open(false, post...), r.open(false, post...)}
		r.frames()
		r.room(0)
		for range 10 {
			for _, o := range bulk {
				o.write(100000, false)
			}
		}
		small := r.open(false, with(post, "x", "small")...)
		small.write(5, true)
		synctest.Wait()
		lines := r.drain()
		ahead, total := 0, 0
		for _, line := range lines {
			var id, n int
			fmt.Sscanf(line, "DATA %d %d", &id, &n)
			total += n
			if line == "DATA 7 5 end" {
				ahead = total
			}
		}
		if total != 3000005 {
			t.Fatalf("%d bytes of DATA came", total)
		}
		// What is in the socket and in the output, and a turn of each stream.
		if limit := 2*(maxOutput+maxStreamOutput) + 3*minMaxFrameSize; ahead > limit {
			t.Errorf("%d bytes went ahead of the small stream, more than %d", ahead, limit)
		}
	})
}

// Nor does it between two flushes, however much it sends.
func TestBulkDoesNotQueueAheadInOneBatch(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{}, initialWindow(1<<30))
		r.must(r.WriteWindowUpdate(0, 1<<30))
		bulk := r.open(false, post...)
		r.frames()
		small := newRecorder(t)
		do(func(b *Batch) {
			for range 10 {
				bulk.s.SendData(b, make([]byte, 10000), false)
			}
			if _, err := r.c.Open(b, &small.s, fields(get...), true); err != nil {
				t.Fatal(err)
			}
			bulk.s.SendData(b, nil, true)
		})
		want(t, "the order", r.frames(),
			"DATA 1 10000", "DATA 1 10000", "DATA 1 10000", "DATA 1 2768", "HEADERS 3 end*",
			"DATA 1 16384", "DATA 1 16384", "DATA 1 16384", "DATA 1 16384", "DATA 1 1696 end")
	})
}

// While the output is full, what streams send stays with them, and can be dropped.
func TestOutputThatIsFull(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, o := openStreamWith(t, Config{Budget: NewBudget(1 << 20)}, role)
			o.log()
			r.fillOutput(func() *recorder {
				o.send(false, "x-first", "1")
				o.write(5, false)
				o.write(6, false)
				o.send(true, "x-last", "1")
				return nil
			})
			want(t, "what the owner is told", o.log())
			want(t, "frames", r.others(r.drain()), append([]string{"HEADERS 1 x-first=1", "DATA 1 11", "HEADERS 1 end x-last=1"}, earlyEnd(role)...)...)
			log := o.log()
			want(t, "what the owner is told", log[:1], "taken 11")
		})
	})
}

// others are the lines that are no answers to PINGs.
func (r *rig) others(lines []string) (others []string) {
	for _, line := range lines {
		if !strings.HasPrefix(line, "PING ack") {
			others = append(others, line)
		}
	}
	return others
}

func TestAnswersWhileTheOutputIsFull(t *testing.T) {
	tests := map[string]struct {
		send func(o *recorder)
		want []string
	}{
		"trailers only":         {func(o *recorder) { o.send(true, ok...) }, []string{"HEADERS 1 end :status=200"}},
		"no content":            {func(o *recorder) { o.send(false, ok...); o.send(true, "x", "y") }, []string{"HEADERS 1 :status=200", "HEADERS 1 end x=y"}},
		"an end without bytes":  {func(o *recorder) { o.send(false, ok...); o.write(0, true) }, []string{"HEADERS 1 end :status=200"}},
		"content and no more":   {func(o *recorder) { o.send(false, ok...); o.write(3, true) }, []string{"HEADERS 1 :status=200", "DATA 1 3 end"}},
		"content, then the end": {func(o *recorder) { o.send(false, ok...); o.write(3, false); o.write(0, true) }, []string{"HEADERS 1 :status=200", "DATA 1 3 end"}},
		"informational": {func(o *recorder) { o.send(false, ":status", "103"); o.send(false, ok...); o.write(3, true) },
			[]string{"HEADERS 1 :status=103", "HEADERS 1 :status=200", "DATA 1 3 end"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				r := newServer(t, Config{Budget: NewBudget(1 << 20)})
				r.headers(1, true, get...)
				r.frames()
				r.fillOutput(func() *recorder { test.send(r.w.stream(0)); return nil })
				want(t, "frames", r.others(r.drain()), test.want...)
			})
		})
	}
}

// A flood of streams that are opened and reset while the output is full leaves
// nothing behind: no frames, no ids, no memory.
func TestResetOfStreamsThatWait(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{Budget: NewBudget(1 << 20)})
		r.fillOutput(func() *recorder {
			for range 1000 {
				o := r.open(false, with(post, "x", "y")...)
				o.write(100, false)
				o.rst(Cancel)
				want(t, "what the owner is told", o.log(), "closed")
			}
			return nil
		})
		if n := r.c.cfg.Budget.Used(); n != 0 {
			t.Errorf("%d bytes are kept", n)
		}
		want(t, "frames", r.others(r.drain()))
		r.open(true, get...)
		want(t, "the next stream", r.frames(), "HEADERS 1 end*")
	})
}

func TestResetDropsParkedData(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		for _, by := range []string{"owner", "peer"} {
			t.Run(by, func(t *testing.T) {
				simulated(t, func(t *testing.T) {
					r, o := openStreamWith(t, Config{Budget: NewBudget(1 << 20)}, role, initialWindow(10))
					o.write(1000, false)
					r.frames()
					rst := []string{}
					if by == "peer" {
						r.must(r.WriteRSTStream(1, 8))
					} else {
						o.rst(Cancel)
						rst = append(rst, "RST_STREAM 1 CANCEL")
					}
					r.must(r.WriteWindowUpdate(1, 10000))
					want(t, "frames", r.frames(), rst...)
					if n := r.c.cfg.Budget.Used(); n != 0 {
						t.Errorf("%d bytes are kept", n)
					}
				})
			})
		}
	})
}

func TestBudget(t *testing.T) {
	bothRoles(t, func(t *testing.T, role Role) {
		simulated(t, func(t *testing.T) {
			r, o := openStreamWith(t, Config{Budget: NewBudget(1000)}, role, initialWindow(10))
			o.log()
			o.write(1010, false)
			want(t, "with a budget used up", r.frames(), "DATA 1 10")
			if n := o.write(1, false); n != 0 {
				t.Errorf("%d bytes went on", n)
			}
			want(t, "beyond it", r.frames(), "RST_STREAM 1 ENHANCE_YOUR_CALM")
			want(t, "what the owner is told", o.log(), "reset over budget ENHANCE_YOUR_CALM", "closed")
			if n := r.c.cfg.Budget.Used(); n != 0 {
				t.Errorf("%d bytes are kept", n)
			}
		})
	})
}

// Header sections that wait are memory as well.
// However many have their fill, there is something left for who comes next.
func TestSharesOfTheBudget(t *testing.T) {
	t.Parallel()
	const limit = 1 << 20
	for hogs := 1; hogs <= 20; hogs++ {
		g := NewBudget(limit)
		held := make([]int64, hogs)
		for more := true; more; {
			more = false
			for i := range held {
				if g.TakeShare(held[i], 100) {
					held[i] += 100
					more = true
				}
			}
		}
		if left := limit - g.Used(); left < limit/int64(hogs+2) {
			t.Errorf("%d who take what they get leave %d of %d bytes", hogs, left, limit)
		}
		if !g.TakeShare(0, limit/(2*(hogs+2))) {
			t.Errorf("%d who take what they get leave nothing for another", hogs)
		}
		if slices.Max(held)-slices.Min(held) > limit/100 {
			t.Errorf("unequal shares: %v", held)
		}
	}
}

func TestBudgetOfHeaders(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{Budget: NewBudget(10000)})
		var o *recorder
		r.fillOutput(func() *recorder {
			r.open(false, with(post, "x", strings.Repeat("v", 6000))...)
			o = r.open(false, with(post, "x", strings.Repeat("v", 6000))...)
			return nil
		})
		want(t, "what the owner is told", o.log(), "reset over budget ENHANCE_YOUR_CALM", "closed")
		want(t, "frames", r.others(r.drain()), "HEADERS 1*")
		if n := r.c.cfg.Budget.Used(); n != 0 {
			t.Errorf("%d bytes are kept", n)
		}
	})
}

// Nothing more is read from a peer that does not take what it is owed, and its
// connection ends where it goes on so.
func TestPeerThatTakesNothing(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{StallTimeout: 5 * time.Second, Nuisance: 1 << 30})
		r.room(1000)
		for range 30000 {
			r.must(r.WritePing(false, [8]byte{}))
		}
		synctest.Wait()
		r.c.mu.Lock()
		owed := r.c.owed
		r.c.mu.Unlock()
		if limit := maxOwed + readBufferSize/17; owed < maxOwed || owed > limit {
			t.Errorf("%d answers are kept, %d at most", owed, limit)
		}
		if r.unread() == 0 {
			t.Error("all was read")
		}
		start := time.Now()
		<-r.served
		if took := time.Since(start); took < 5*time.Second || took > 5*time.Second+lingerTime {
			t.Errorf("the connection ended after %v", took)
		}
		want(t, "what the handler is told", r.w.log(), "draining", "closed: "+os.ErrDeadlineExceeded.Error())
	})
}

// What others made us write is no reason not to read: the peer may be waiting for
// the same.
func TestReaderGoesOnWhileStreamsAreReset(t *testing.T) {
	simulated(t, func(t *testing.T) {
		const streams = 16000
		r := newServer(t, Config{MaxConcurrentStreams: streams}, initialWindow(1<<20))
		r.must(r.WriteWindowUpdate(0, 1<<20))
		for i := range streams {
			r.headers(uint32(1+2*i), false, post...)
		}
		r.frames()
		r.room(0)
		last := r.w.stream(streams - 1)
		last.send(false, ok...)
		last.write(200000, false)
		for i := range streams - 1 {
			r.w.stream(i).rst(Cancel)
		}
		last.log()
		for range 10 {
			synctest.Wait() // the reader comes to read again, or not
			r.must(r.WriteData(2*streams-1, false, []byte("x")))
		}
		synctest.Wait()
		if n := len(last.log()); n != 10 {
			t.Errorf("%d of 10 bytes were read", n)
		}
	})
}

func TestReaderGoesOnWhereThePeerTakesAgain(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{Nuisance: 1 << 30})
		r.room(1000)
		for range 30000 {
			r.must(r.WritePing(false, [8]byte{}))
		}
		synctest.Wait()
		if n := len(r.drain()); n != 30000 {
			t.Errorf("%d PINGs were answered", n)
		}
	})
}

// It is enough that what it owed was handed to the socket, even if that is full
// again.
func TestReaderGoesOnOnceTheOutputIsTaken(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{Nuisance: 1 << 30})
		r.room(1000)
		for range 40000 {
			r.must(r.WritePing(false, [8]byte{}))
		}
		synctest.Wait()
		before := r.unread()
		for range 10 { // so that the first output goes, and a part of the second
			if err := r.take(1000); err != nil {
				t.Fatal(err)
			}
			r.room(r.end.in.size() + 8000)
			synctest.Wait()
		}
		if after := r.unread(); after >= before {
			t.Errorf("%d bytes were unread, and %d are now", before, after)
		}
	})
}

// unread is how many bytes the engine has not read yet.
func (r *rig) unread() int {
	return r.engine.in.size()
}

// A peer that takes little, but some, keeps its connection.
func TestPeerThatTakesLittle(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStreamWith(t, Config{StallTimeout: 5 * time.Second}, Server)
		r.room(100)
		o.write(60000, false)
		got := 0
		for range 100 {
			time.Sleep(4 * time.Second)
			synctest.Wait()
			if err := r.take(10); err != nil {
				t.Fatal(err)
			}
			got += 10
		}
		r.room(1 << 20)
		lines := r.frames()
		want(t, "the answer", lines[len(lines)-1:], "DATA 1*")
	})
}

// SendData copies what it parks: its caller's bytes change afterwards.
func TestParkedDataIsCopied(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r, o := openStream(t, Client, initialWindow(0))
		var sent []byte
		p := make([]byte, 10)
		for i := range 2000 {
			for j := range p {
				p[j] = byte(i + j)
			}
			do(func(b *Batch) { o.s.SendData(b, p, false) })
			sent = append(sent, p...)
			if i%3 == 0 {
				r.must(r.WriteWindowUpdate(1, 17))
				synctest.Wait()
			}
		}
		r.must(r.WriteWindowUpdate(1, 1<<20))
		synctest.Wait()
		var got []byte
		p2 := r.peer
		p2.take(-1)
		for p2.got.Len() >= frameHeaderLen {
			h := parseFrameHeader(p2.got.Next(frameHeaderLen))
			payload := p2.got.Next(h.length)
			if h.typ == frameData {
				got = append(got, payload...)
			}
		}
		if string(got) != string(sent) {
			t.Errorf("%d bytes came, %d were sent, and they differ", len(got), len(sent))
		}
	})
}
