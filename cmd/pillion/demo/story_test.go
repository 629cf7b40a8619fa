package demo

import "testing"

// What policies do is told in the words of the sidecar's log; everything else there is
// no story.
func TestStory(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, want string }{
		{`{"msg":"circuit breaker: open","reason":"20 of 20 RPCs failed","open_for":4000000000}`, "the breaker opens for 4s: 20 of 20 RPCs failed"},
		{`{"msg":"ejected instance is used again","instance":"127.0.0.1:7","after":830446218}`, "127.0.0.1:7 is used again, after 830ms"},
		{`{"msg":"instance ejected: more of its RPCs fail than of others'","instance":"x","why":"58 %","for":1000000000}`, "x is ejected for 1s: 58 %"},
		{
			`{"msg":"canary: this sidecar takes its own RPCs off it for the rest of the step","canary":"greeter-v3","reason":"errors: 5 of 20 failed"}`,
			"takes its own RPCs off canary greeter-v3: errors: 5 of 20 failed",
		},
		{
			`{"msg":"canary: transition","canary":"greeter-v2","phase":"running","step":2,"weight":0.5,"reason":"step 1 has lasted its 9s"}`,
			"canary greeter-v2: running, step 2, 50 %: step 1 has lasted its 9s",
		},
		{`{"msg":"listening","side":"outbound","address":"127.0.0.1:7"}`, ""},
		{`listening 127.0.0.1:7`, ""},
		{`{"msg":`, ""},
	} {
		e, _ := parseEntry([]byte(c.line))
		if got := e.story(); got != c.want {
			t.Errorf("%s tells %q, want %q", c.line, got, c.want)
		}
	}
}
