package h2

import "testing"

func TestServerExchange(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		r.headers(1, false, with(post, "content-type", "application/grpc", "te", "trailers")...)
		r.must(r.WriteData(1, true, []byte("hello")))
		want(t, "frames before the answer", r.frames())
		o := r.w.stream(0)
		want(t, "what the owner is told", o.log(),
			"request POST http://a/ content-type=application/grpc te=trailers", "data 5 end")

		o.send(false, ":status", "200", "content-type", "application/grpc")
		o.write(7, false)
		o.send(true, "grpc-status", "0")
		want(t, "the answer", r.frames(),
			"HEADERS 1 :status=200 content-type=application/grpc", "DATA 1 7", "HEADERS 1 end grpc-status=0")
		want(t, "the end", o.log(), "closed")
	})
}

func TestClientExchange(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{})
		o := r.open(false, with(post, "te", "trailers")...)
		o.write(5, true)
		want(t, "the request", r.frames(),
			"HEADERS 1 :method=POST :scheme=http :path=/ :authority=a te=trailers", "DATA 1 5 end")

		r.headers(1, false, ":status", "103", "link", "x")
		r.headers(1, false, ":status", "200")
		r.must(r.WriteData(1, false, []byte("answer")))
		r.headers(1, true, "grpc-status", "0")
		want(t, "frames after the answer", r.frames())
		want(t, "what the owner is told", o.log(),
			"informational 103 link=x", "response 200", "data 6", "trailers grpc-status=0 end", "closed")
	})
}

func TestRequestWithoutContentAndAnswerWithoutContent(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		r.headers(1, true, get...)
		r.frames()
		o := r.w.stream(0)
		want(t, "what the owner is told", o.log(), "request GET http://a/ end")
		o.send(false, ":status", "100")
		o.send(true, ":status", "204")
		want(t, "the answer", r.frames(), "HEADERS 1 :status=100", "HEADERS 1 end :status=204")
		want(t, "the end", o.log(), "closed")
	})
}

// The peer need not send the rest of a request that was answered in full (RFC
// 9113 section 8.1), and what of it is on its way is no offence.
func TestAnswerBeforeTheRequestEnds(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		r.headers(1, false, post...)
		r.frames()
		o := r.w.stream(0)
		o.send(true, ":status", "200", "grpc-status", "12")
		want(t, "the answer", r.frames(), "HEADERS 1 end :status=200 grpc-status=12", "RST_STREAM 1 NO_ERROR")
		want(t, "what the owner is told", o.log(), "request POST http://a/", "closed")

		r.must(r.WriteData(1, false, make([]byte, 100)))
		r.headers(1, true, "x", "y")
		want(t, "frames after late ones", r.frames())
	})
}

func TestResponseBeforeTheRequestEnds(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newClient(t, Config{})
		o := r.open(false, post...)
		r.frames()
		r.headers(1, true, ":status", "200", "grpc-status", "0")
		r.frames()
		want(t, "what the owner is told", o.log(), "response 200 grpc-status=0 end")
		o.write(3, true)
		want(t, "the rest of the request", r.frames(), "DATA 1 3 end")
		want(t, "the end", o.log(), "closed")
	})
}

// Nothing goes out after a stream's end, and what is sent counts as gone on.
func TestSendingAfterTheEnd(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newServer(t, Config{})
		r.headers(1, true, get...)
		r.frames()
		o := r.w.stream(0)
		o.send(true, ok...)
		o.send(true, ok...)
		if n := o.write(10, false); n != 10 {
			t.Errorf("%d of 10 bytes count as gone on", n)
		}
		o.rst(Cancel)
		want(t, "the answer", r.frames(), "HEADERS 1 end :status=200")
	})
}
