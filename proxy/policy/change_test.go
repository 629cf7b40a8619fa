package policy

import (
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

func TestChanges(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		change  *configv1.MetadataChange
		in, out []string
	}{
		{"set what is missing", &configv1.MetadataChange{Set: map[string]string{"a": "1"}}, []string{"x: y"}, []string{"x: y", "a: 1"}},
		{"set what is there", &configv1.MetadataChange{Set: map[string]string{"a": "1"}}, []string{"a: 0", "x: y"}, []string{"a: 1", "x: y"}},
		{"set what is there twice", &configv1.MetadataChange{Set: map[string]string{"a": "1"}}, []string{"x: y", "a: 0", "a: 9", "z: z"}, []string{"x: y", "a: 1", "z: z"}},
		{"add", &configv1.MetadataChange{Add: map[string]string{"b": "2", "a": "1"}}, []string{"a: 0"}, []string{"a: 0", "a: 1", "b: 2"}},
		{"remove", &configv1.MetadataChange{Remove: []string{"a", "b"}}, []string{"a: 0", "x: y", "b: 1", "a: 2"}, []string{"x: y"}},
		{"all", &configv1.MetadataChange{Remove: []string{"a"}, Set: map[string]string{"a": "1"}, Add: map[string]string{"a": "2"}}, []string{"a: 0"}, []string{"a: 1", "a: 2"}},
		{"pseudo fields stay first", &configv1.MetadataChange{Set: map[string]string{"a": "1"}, Remove: []string{"b"}}, []string{":path: /x", "b: 2"}, []string{":path: /x", "a: 1"}},
		{"bytes", &configv1.MetadataChange{Set: map[string]string{"a-bin": "AAE"}}, nil, []string{"a-bin: AAE"}},
	} {
		p := fresh()
		compiled := p.compileChange("request", c.change, "", "")
		if len(p.list) > 0 {
			t.Errorf("%s: %v", c.name, p.list)
		}
		if got, want := compiled.Apply(fields(c.in...)), fields(c.out...); !slices.Equal(got, want) {
			t.Errorf("%s: %v, not %v", c.name, got, want)
		}
	}
	if c := fresh().compileChange("request", &configv1.MetadataChange{}, "", ""); c != nil {
		t.Errorf("nothing to change, but %v", c)
	}
	in := fields("a: b")
	if got := (*Change)(nil).Apply(in); !slices.Equal(got, in) {
		t.Errorf("nothing changes, but %v", got)
	}
}

// What is left behind the fields would keep memory of callers alive.
func TestChangesLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	c := fresh().compileChange("request", &configv1.MetadataChange{Remove: []string{"a"}}, "", "")
	in := fields("a: 1", "x: y", "a: 2")
	out := c.Apply(in)
	for _, f := range in[len(out):] {
		if f != (hpack.Field{}) {
			t.Errorf("%v is left", f)
		}
	}
}

func TestKeysThatMayNotChange(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		":path": "pseudo field", "grpc-timeout": "gRPC's own", "grpc-tags-bin": "gRPC's own", "content-type": "HTTP's own", "te": "HTTP's own",
		"host": "HTTP's own", "connection": "HTTP's own", "transfer-encoding": "HTTP's own", "content-length": "HTTP's own",
		"pillion-flags": "Pillion's own", "User": `write "user"`, "a b": "no metadata key", "": "empty",
	} {
		for kind, change := range map[string]*configv1.MetadataChange{
			"set": {Set: map[string]string{key: "v"}}, "add": {Add: map[string]string{key: "v"}}, "remove": {Remove: []string{key}},
		} {
			p := fresh()
			p.compileChange("request", change, "", "")
			if len(p.list) != 1 || !strings.Contains(p.list[0].Message, want) || !strings.HasPrefix(p.list[0].Field, "request."+kind+"[") {
				t.Errorf("%s %q: %v, which does not say %q", kind, key, p.list, want)
			}
		}
	}
	for value, want := range map[string]string{"a\nb": "at byte 2", "ü": "at byte 1", " a": "space", "a ": "space", "a\x7f": "at byte 2"} {
		p := fresh()
		p.compileChange("request", &configv1.MetadataChange{Set: map[string]string{"a": value}}, "", "")
		if len(p.list) != 1 || !strings.Contains(p.list[0].Message, want) {
			t.Errorf("value %q: %v, which does not say %q", value, p.list, want)
		}
	}
	p := fresh()
	p.compileChange("request", &configv1.MetadataChange{Set: map[string]string{"a-bin": "!"}}, "", "")
	if len(p.list) != 1 || !strings.Contains(p.list[0].Message, "base64") {
		t.Errorf("bytes: %v", p.list)
	}
	p = fresh()
	p.compileChange("request", &configv1.MetadataChange{Set: map[string]string{DefaultGroupKey: "x", "a": "", "b-bin": base64.StdEncoding.EncodeToString([]byte{0, 255})}}, "", "")
	if len(p.list) != 0 {
		t.Errorf("refused: %v", p.list)
	}
}

// FuzzChange holds changes against what they mean, read as plainly as can be, and
// nothing that gets through them breaks a rule of HTTP/2.
func FuzzChange(f *testing.F) {
	f.Add("a: 1\nb: 2\na: 3", "a", "b=9", "c=7")
	f.Add(":path: /x\ngrpc-timeout: 1S", "grpc-timeout", ":path=/y", "te=x")
	f.Add("", "", "", "")
	f.Fuzz(func(t *testing.T, in, remove, set, add string) {
		m := &configv1.MetadataChange{}
		if remove != "" {
			m.Remove = strings.Split(remove, ",")
		}
		m.Set, m.Add = pairs(set), pairs(add)
		if len(m.Remove) > 64 || len(m.Set) > 64 || len(m.Add) > 64 {
			t.Skip()
		}
		p := fresh()
		c := p.compileChange("request", m, "", "")
		if len(p.list) > 0 {
			return
		}
		var list, want []hpack.Field
		if in != "" {
			list = fields(strings.Split(in, "\n")...)
		}
		placed := map[string]bool{}
		for _, f := range list {
			value, isSet := m.Set[f.Name]
			switch {
			case isSet && !placed[f.Name]:
				placed[f.Name] = true
				want = append(want, hpack.Field{Name: f.Name, Value: value})
			case isSet || slices.Contains(m.Remove, f.Name):
			default:
				want = append(want, f)
			}
		}
		for i, kind := range []map[string]string{m.Set, m.Add} {
			for _, key := range slices.Sorted(maps.Keys(kind)) {
				if !placed[key] || i == 1 {
					want = append(want, hpack.Field{Name: key, Value: kind[key]})
				}
				if strings.HasPrefix(key, ":") || strings.HasPrefix(key, "grpc-") || strings.ToLower(key) != key || strings.ContainsAny(kind[key], "\r\n\x00") {
					t.Errorf("%q: %q got through", key, kind[key])
				}
			}
		}
		if got := c.Apply(list); !slices.Equal(got, want) {
			t.Errorf("%q with %v becomes %v, not %v", in, m, got, want)
		}
	})
}

func pairs(text string) map[string]string {
	m := map[string]string{}
	for part := range strings.SplitSeq(text, ",") {
		if key, value, ok := strings.Cut(part, "="); ok {
			m[key] = value
		}
	}
	return m
}

// Two changes that were put together come to the same as one after the other, but for the
// order of different keys.
func TestChangesThatFollowEachOther(t *testing.T) {
	t.Parallel()
	draw := func(t *rapid.T) *Change {
		m := &configv1.MetadataChange{Set: map[string]string{}, Add: map[string]string{}}
		for _, key := range worldKeys {
			switch value := rapid.SampledFrom([]string{"MQ", "Mg"}).Draw(t, "value"); rapid.IntRange(0, 5).Draw(t, "change of "+key) {
			case 0:
				m.Remove = append(m.Remove, key)
			case 1:
				m.Set[key] = value
			case 2:
				m.Add[key] = value
			case 3:
				m.Set[key], m.Add[key] = value, value
			}
		}
		p := fresh()
		c := p.compileChange("request", m, "", "")
		if len(p.list) > 0 {
			t.Fatal(p.list)
		}
		return c
	}
	byKey := func(list []hpack.Field) []hpack.Field {
		slices.SortStableFunc(list, func(a, b hpack.Field) int { return strings.Compare(a.Name, b.Name) })
		return list
	}
	rapid.Check(t, func(t *rapid.T) {
		first, next, in := draw(t), draw(t), drawFields(t)
		want := byKey(next.Apply(first.Apply(slices.Clone(in))))
		if got := byKey(first.then(next).Apply(slices.Clone(in))); !slices.Equal(got, want) {
			t.Fatalf("%v becomes %v, want %v", in, got, want)
		}
		rpc := asked(slices.Clone(in))
		rpc.Mark()
		if got := byKey(first.then(next).ApplyTo(rpc)); !slices.Equal(got, want) {
			t.Fatalf("%v, marked, becomes %v, want %v", in, got, want)
		}
	})
}
