package policy

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// What is found by marks is what is found by names, in requests of any length, among
// names that share drawers.
func TestMarksFindWhatNamesDo(t *testing.T) {
	t.Parallel()
	names := []string{":path", "a", "b", "cookie", "x-user-id", "x-uses-id", "x-usar-id", "user-agent", "x-tenant"}
	if drawerOf("x-uses-id") != drawerOf("x-user-id") || drawerOf("x-user-id") == drawerOf("x-usar-id") {
		t.Fatal("the test's names are not as alike as it believes")
	}
	for i := range 100 {
		names = append(names, fmt.Sprintf("k%d", i))
	}
	shared := 0
	rapid.Check(t, func(t *rapid.T) {
		marked := &RPC{}
		for i, name := range rapid.SliceOfN(rapid.SampledFrom(names), 0, maxMarked+3).Draw(t, "names") {
			marked.Fields = append(marked.Fields, hpack.Field{Name: name, Value: fmt.Sprint(i)})
		}
		plain := &RPC{Fields: marked.Fields}
		marked.Mark()
		if marked.marks.twice != 0 {
			shared++
		}
		for _, name := range append(names, "", "not there") {
			k := newKey(name)
			value, count := marked.one(&k)
			if want, wanted := plain.one(&k); value != want || count != wanted {
				t.Fatalf("%q of %v is %q (%d), want %q (%d)", name, marked.Fields, value, count, want, wanted)
			}
		}
	})
	if shared == 0 && !t.Failed() {
		t.Error("no drawer was shared")
	}
}

// The memory of an RPC is used again, for one whose fields are others.
func TestMarksAreMadeAnew(t *testing.T) {
	t.Parallel()
	rpc := &RPC{Fields: fields("a: 1", "b: 2")}
	rpc.Mark()
	rpc.Forget()
	a, b, c := newKey("a"), newKey("b"), newKey("c")
	rpc.Fields = fields("c: 3", "b: 4")
	for _, again := range []string{"not marked", "marked"} {
		if rpc.find(&a) >= 0 || rpc.find(&b) != 1 || rpc.find(&c) != 0 {
			t.Errorf("%s: a at %d, b at %d, c at %d", again, rpc.find(&a), rpc.find(&b), rpc.find(&c))
		}
		rpc.Mark()
	}
}
