package exact

import (
	"testing"

	"github.com/pillion-proxy/pillion/interop/harness"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAllKindsEndWell(t *testing.T) {
	t.Parallel()

	ledger := NewLedger()
	app := Serve(t, harness.Listen(t), "app", ledger)
	conn, err := grpc.NewClient("passthrough:///"+app.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()

	for _, kind := range Kinds {
		for _, shape := range []Shape{{}, {1, 100}, {20, 0}, {20, 10_000}} {
			if r := Call(t.Context(), conn, ledger, kind, shape); r.Code != codes.OK || r.Wrong != nil {
				t.Errorf("%+v: %v", shape, r)
			}
		}
	}
	if app.Calls() != 16 || ledger.Wrong() != nil {
		t.Errorf("%d calls, wrong: %v", app.Calls(), ledger.Wrong())
	}
}

func TestAnRPCThatWasProcessedTwiceIsFound(t *testing.T) {
	t.Parallel()

	ledger := NewLedger()
	ledger.reach(1, "a")
	ledger.reach(2, "b")
	if wrong := ledger.Wrong(); wrong != nil {
		t.Error(wrong)
	}
	ledger.reach(1, "b")
	if len(ledger.Wrong()) != 1 {
		t.Error("not found")
	}
}

// Whatever is changed in a message, it is found.
func TestAChangedMessageIsFound(t *testing.T) {
	t.Parallel()

	rapid.Check(t, func(t *rapid.T) {
		h := head{id: rapid.Uint64().Draw(t, "id"), seq: rapid.Uint32().Draw(t, "seq"), messages: 3, size: rapid.Uint32Range(0, 300).Draw(t, "size")}
		m := h.message(answer)
		if got, err := parse(m, answer, h.seq); err != nil || got != h {
			t.Fatalf("got %+v, %v, want %+v", got, err, h)
		}
		if _, err := parse(m, request, h.seq); err == nil {
			t.Error("an answer passes for a request")
		}
		if _, err := parse(m, answer, h.seq+1); err == nil {
			t.Error("a message passes for the next")
		}
		at := rapid.IntRange(0, len(m)-1).Draw(t, "at")
		m[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := parse(m, answer, h.seq); err == nil {
			t.Error("a changed bit is not found")
		}
		m[at] ^= 0xff
		if _, err := parse(m[:at], answer, h.seq); err == nil {
			t.Error("a lost end is not found")
		}
	})
}
