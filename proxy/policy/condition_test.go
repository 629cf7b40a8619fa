package policy

import (
	"encoding/base64"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

func TestConditions(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 3000)
	for _, c := range []struct {
		name      string
		condition string
		yes, no   [][]string
	}{
		{"exact", `{key: user, exact: alice}`, [][]string{{"user: alice"}}, [][]string{{}, {"user: alice2"}, {"user: Alice"}, {"user: alice", "user: alice"}}},
		{"exact, joined", `{key: user, exact: "a,b"}`, [][]string{{"user: a", "user: b"}, {"user: a,b"}}, [][]string{{"user: b", "user: a"}, {"user: a"}}},
		{"exact, joined and long", `{key: user, exact: "` + long + `,b"}`, [][]string{{"user: " + long, "user: b"}}, [][]string{{"user: " + long}}},
		{"exact, empty", `{key: user, exact: ""}`, [][]string{{"user: "}}, [][]string{{}, {"user: a"}, {"user: ", "user: "}}},
		{"exact, turned around", `{key: user, exact: alice, invert: true}`, [][]string{{}, {"user: bob"}, {"user: alice", "user: bob"}}, [][]string{{"user: alice"}}},
		{"prefix", `{key: user, prefix: al}`, [][]string{{"user: alice"}, {"user: al", "user: x"}}, [][]string{{}, {"user: a"}, {"user: x", "user: al"}}},
		{"suffix", `{key: user, suffix: ce}`, [][]string{{"user: alice"}, {"user: x", "user: ce"}}, [][]string{{}, {"user: e"}}},
		{"regex", `{key: user, regex: "a.*e|b"}`, [][]string{{"user: alice"}, {"user: b"}, {"user: a", "user: e"}}, [][]string{{}, {"user: alice2"}, {"user: xalice"}, {"user: b\nb"}}},
		{"regex, turned around", `{key: user, regex: "a.*", invert: true}`, [][]string{{}, {"user: b"}}, [][]string{{"user: a"}}},
		{"regex with flags", `{key: user, regex: "(?mi)a"}`, [][]string{{"user: A"}}, [][]string{{"user: a\nb"}}},
		{"present", `{key: user, present: true}`, [][]string{{"user: "}, {"user: a", "user: b"}}, [][]string{{}, {"users: a"}}},
		{"not present", `{key: user, present: false}`, [][]string{{}}, [][]string{{"user: "}}},
		{"present, turned around", `{key: user, present: true, invert: true}`, [][]string{{}}, [][]string{{"user: "}}},
		{"range", `{key: n, range: {start: -5, end: 10}}`, [][]string{{"n: -5"}, {"n: 9"}, {"n: +9"}, {"n: 009"}}, [][]string{{}, {"n: 10"}, {"n: -6"}, {"n: x"}, {"n: "}, {"n: 1.0"}, {"n:  1"}, {"n: 1", "n: 2"}, {"n: 99999999999999999999"}}},
		{"range, turned around", `{key: n, range: {start: 0, end: 10}, invert: true}`, [][]string{{}, {"n: 10"}, {"n: x"}}, [][]string{{"n: 0"}}},
		{"bytes", `{key: id-bin, bytes: AAECgA==}`, [][]string{{"id-bin: AAECgA=="}, {"id-bin: AAECgA"}, {"id-bin: eA==", "id-bin: AAECgA"}, {"id-bin: eA==,AAECgA"}},
			[][]string{{}, {"id-bin: AAECgQ"}, {"id-bin: !!!"}, {"id-bin: "}, {"id-bin: AAECgA="}}},
		{"bytes, turned around", `{key: id-bin, bytes: eA==, invert: true}`, [][]string{{}, {"id-bin: AAE"}, {"id-bin: !"}}, [][]string{{"id-bin: eA"}, {"id-bin: AAE,eA"}}},
		{"prefix of bytes", `{key: id-bin, prefix: x}`, [][]string{{"id-bin: eHl6"}, {"id-bin: " + base64.StdEncoding.EncodeToString([]byte(long))}}, [][]string{{"id-bin: eXg"}, {"id-bin: x"}}},
		{"regex of bytes", `{key: id-bin, regex: "x+"}`, [][]string{{"id-bin: eHh4"}}, [][]string{{"id-bin: eHl6"}, {}}},
		{"present bytes", `{key: id-bin, present: true}`, [][]string{{"id-bin: not base64"}}, [][]string{{}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := compiledRoute(t, "- {match: {metadata: ["+c.condition+"]}, to: {service: there}}")
			for _, metadata := range c.yes {
				if d := r.Decide(request(sayHello, metadata...), "greeter", nil); d.Rule == nil {
					t.Errorf("%q does not match", metadata)
				}
			}
			for _, metadata := range c.no {
				if d := r.Decide(request(sayHello, metadata...), "greeter", nil); d.Rule != nil {
					t.Errorf("%q matches", metadata)
				}
			}
		})
	}
}

func TestConditionsOnCookies(t *testing.T) {
	t.Parallel()
	r := compiledRoute(t, `
- {name: alice, match: {cookies: [{key: user, exact: alice}]}, to: {service: a}}
- {name: some, match: {cookies: [{key: user, present: true}]}, to: {service: b}}
- {name: none, match: {cookies: [{key: user, present: false}]}, to: {service: c}}`)
	for _, c := range []struct {
		metadata []string
		rule     string
	}{
		{[]string{"cookie: user=alice"}, "alice"},
		{[]string{"cookie: x=1; user=alice; y=2"}, "alice"},
		{[]string{"cookie: x=1", "cookie: user=alice"}, "alice"},
		{[]string{`cookie: user="alice"`}, "alice"},
		{[]string{"cookie: user = alice ;x"}, "alice"},
		{[]string{"cookie: user=alice; user=bob"}, "alice"},
		{[]string{"cookie: user=bob; user=alice"}, "some"},
		{[]string{"cookie: user=alice2"}, "some"},
		{[]string{"cookie: user="}, "some"},
		{[]string{`cookie: user="`}, "some"},
		{[]string{"cookie: xuser=alice"}, "none"},
		{[]string{"cookie: user"}, "none"},
		{[]string{"cookie: =alice"}, "none"},
		{[]string{"cookie: "}, "none"},
		{[]string{"user: alice"}, "none"},
		{nil, "none"},
	} {
		if d := r.Decide(request(sayHello, c.metadata...), "greeter", nil); d.Rule.Name != c.rule {
			t.Errorf("%q: rule %q, not %q", c.metadata, d.Rule.Name, c.rule)
		}
	}
}

func TestConditionsThatAreWrong(t *testing.T) {
	t.Parallel()
	conditions := map[string]string{
		`{key: User, exact: a}`:                   `upper case letters, which no metadata key has on the wire: write "user"`,
		`{key: ":path", exact: a}`:                "use methods",
		`{key: ":authority", exact: a}`:           "pseudo field",
		`{key: "a b", exact: a}`:                  "no metadata key",
		`{key: user, regex: "("}`:                 "RE2",
		`{key: user, regex: "a)|(b"}`:             "RE2",
		`{key: user, regex: "a.{500}b.{400}c"}`:   "instructions, and there may be 512 at most",
		`{key: user, bytes: eA==}`:                "no -bin key",
		`{key: user, range: {start: 5, end: 5}}`:  "end has to be above start",
		`{key: user, range: {start: 5, end: -5}}`: "end has to be above start",
	}
	yaml, wants := "", map[string]string{}
	for condition, want := range conditions {
		name := fmt.Sprintf("p%d", len(wants))
		yaml += fmt.Sprintf("- {name: %s, service: %s, route: {rules: [{match: {metadata: [%s]}, to: {service: x}}]}}\n", name, name, condition)
		wants[name] = want
	}
	refused := refusalsOf(written(t, yaml))
	if len(refused) != len(wants) {
		t.Errorf("%d are refused, not %d: %v", len(refused), len(wants), refused)
	}
	for _, r := range refused {
		if !strings.Contains(r.Message, wants[r.Policy]) || !strings.HasPrefix(r.Field, "route.rules[0].match.metadata[0]") {
			t.Errorf("%v, which does not say %q", r, wants[r.Policy])
		}
	}
}

func TestWholeNumbersAreReadAsStrconvDoes(t *testing.T) {
	t.Parallel()
	check := func(t interface{ Fatalf(string, ...any) }, text string) {
		want, err := strconv.ParseInt(text, 10, 64)
		got, ok := parseInt(text)
		if ok != (err == nil) || ok && got != want {
			t.Fatalf("%q is %d (%v), not %d (%v)", text, got, ok, want, err)
		}
	}
	for _, n := range []int64{math.MaxInt64, math.MinInt64, 0, -1} {
		for d := int64(-2); d <= 2; d++ {
			check(t, new(big.Int).Add(big.NewInt(n), big.NewInt(d)).String())
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, rapid.OneOf(rapid.StringMatching(`[-+]?[0-9x]{0,20}`), rapid.String()).Draw(t, "text"))
	})
}

// plain is the conditions as the schema says them, in the plainest way.
func plain(m *configv1.MetadataMatch, list []hpack.Field) bool {
	var values []string
	for _, f := range list {
		if f.Name == m.GetKey() {
			values = append(values, f.Value)
		}
	}
	met := false
	if p, ok := m.GetCondition().(*configv1.MetadataMatch_Present); ok {
		return (len(values) > 0) == p.Present != m.GetInvert()
	}
	if len(values) > 0 {
		candidates := []string{strings.Join(values, ",")}
		if strings.HasSuffix(m.GetKey(), "-bin") {
			candidates = nil
			for _, v := range strings.Split(strings.Join(values, ","), ",") {
				for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding} {
					if b, err := encoding.DecodeString(v); err == nil {
						candidates = append(candidates, string(b))
					}
				}
			}
		}
		for _, v := range candidates {
			switch c := m.GetCondition().(type) {
			case *configv1.MetadataMatch_Exact:
				met = met || v == c.Exact
			case *configv1.MetadataMatch_Prefix:
				met = met || strings.HasPrefix(v, c.Prefix)
			case *configv1.MetadataMatch_Suffix:
				met = met || strings.HasSuffix(v, c.Suffix)
			case *configv1.MetadataMatch_Regex:
				where := regexp.MustCompile(c.Regex).FindStringIndex(v)
				met = met || where != nil && where[0] == 0 && where[1] == len(v)
			case *configv1.MetadataMatch_Range:
				n, err := strconv.ParseInt(v, 10, 64)
				met = met || err == nil && n >= c.Range.GetStart() && n < c.Range.GetEnd()
			case *configv1.MetadataMatch_Bytes:
				met = met || v == string(c.Bytes)
			}
		}
	}
	return met != m.GetInvert()
}

func TestConditionsAgreeWithTheSchema(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := drawCondition(t)
		p := fresh()
		c := p.compileCondition("c", m, false)
		if len(p.list) > 0 {
			t.Fatalf("%v: %v", m, p.list)
		}
		for range 5 {
			list := drawFields(t)
			if got, want := c.holds(asked(list), nil), plain(m, list); got != want {
				t.Fatalf("%v holds for %v: %v, want %v", m, list, got, want)
			}
		}
	})
}

// Where a condition implies or contradicts another, no metadata tells otherwise: all
// pairs of a small world's conditions, with all its metadata.
func TestWhatConditionsSayOfEachOther(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"a", "c-bin"} {
		conditions, lists := worldConditions(key), [][]hpack.Field{nil}
		for _, v := range worldValues {
			lists = append(lists, fields(key+": "+v))
			for _, w := range worldValues {
				lists = append(lists, fields(key+": "+v, key+": "+w))
			}
		}
		holds := make([][]bool, len(conditions))
		for i := range conditions {
			for _, list := range lists {
				holds[i] = append(holds[i], conditions[i].holds(asked(list), nil))
			}
		}
		implied, contradicted := 0, 0
		for i := range conditions {
			for j := range conditions {
				a, b := &conditions[i], &conditions[j]
				implies, contradicts := a.implies(b), a.contradicts(b)
				implied, contradicted = implied+count(implies), contradicted+count(contradicts)
				for k, list := range lists {
					if implies && holds[i][k] && !holds[j][k] {
						t.Fatalf("%s implies %s, but not for %v", a.wanted(), b.wanted(), list)
					}
					if contradicts && holds[i][k] && holds[j][k] {
						t.Fatalf("%s contradicts %s, but both hold for %v", a.wanted(), b.wanted(), list)
					}
				}
			}
		}
		if implied <= len(conditions) || contradicted <= len(conditions) {
			t.Errorf("of %d conditions on %q, only %d imply and %d contradict others", len(conditions), key, implied, contradicted)
		}
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// worldConditions are all conditions of the small world on a key.
func worldConditions(key string) (list []condition) {
	add := func(m *configv1.MetadataMatch) {
		for _, invert := range []bool{false, true} {
			m.Key, m.Invert = key, invert
			list = append(list, fresh().compileCondition("c", m, false))
		}
	}
	for _, v := range worldValues {
		add(&configv1.MetadataMatch{Condition: &configv1.MetadataMatch_Exact{Exact: v}})
		add(&configv1.MetadataMatch{Condition: &configv1.MetadataMatch_Prefix{Prefix: v}})
		add(&configv1.MetadataMatch{Condition: &configv1.MetadataMatch_Suffix{Suffix: v}})
	}
	for _, r := range []string{"1.*", "x", ".*2"} {
		add(&configv1.MetadataMatch{Condition: &configv1.MetadataMatch_Regex{Regex: r}})
	}
	for _, present := range []bool{false, true} {
		add(&configv1.MetadataMatch{Condition: &configv1.MetadataMatch_Present{Present: present}})
	}
	for _, r := range [][2]int64{{0, 2}, {2, 13}, {1, 3}, {12, 13}} {
		add(&configv1.MetadataMatch{Condition: &configv1.MetadataMatch_Range{Range: &configv1.Int64Range{Start: r[0], End: r[1]}}})
	}
	return list
}

// FuzzBinaryCondition: whatever callers write under a -bin key, it is what package
// base64 makes of it or nothing.
func FuzzBinaryCondition(f *testing.F) {
	for _, seed := range []string{"", "eA", "eA==", "eA=", "eA,eA==", ",,", "!", strings.Repeat("eHh4", 600)} {
		f.Add(seed, []byte("x"))
	}
	f.Fuzz(func(t *testing.T, value string, want []byte) {
		m := &configv1.MetadataMatch{Key: "id-bin", Condition: &configv1.MetadataMatch_Bytes{Bytes: want}}
		p := fresh()
		c := p.compileCondition("c", m, false)
		list := []hpack.Field{{Name: "id-bin", Value: value}}
		if strings.ContainsAny(value, "\r\n") { // no header field has them
			t.Skip()
		}
		if got, want := c.holds(asked(list), nil), plain(m, list); got != want {
			t.Errorf("%q has %q: %v, want %v", value, c.text, got, want)
		}
	})
}

// FuzzCookies: no header gives a cookie that is not written there.
func FuzzCookies(f *testing.F) {
	for _, seed := range []string{"a=b; c=d", `a="b"`, "a", "=", ";;;", "a==b", `a="`, "a=b;a=c"} {
		f.Add(seed, "a")
	}
	f.Fuzz(func(t *testing.T, header, name string) {
		if strings.ContainsAny(name, "=; \t") {
			return // no policy names such a cookie
		}
		value, found := (&RPC{Fields: []hpack.Field{{Name: "cookie", Value: header}}}).cookie(name)
		want, wantFound := "", false
		for part := range strings.SplitSeq(header, ";") {
			key, v, ok := strings.Cut(part, "=")
			if !ok || name == "" || strings.Trim(key, " \t") != name {
				continue
			}
			want, wantFound = strings.Trim(v, " \t"), true
			if len(want) > 1 && strings.HasPrefix(want, `"`) && strings.HasSuffix(want, `"`) {
				want = want[1 : len(want)-1]
			}
			break
		}
		if value != want || found != wantFound {
			t.Errorf("%q of %q is %q (%v), not %q (%v)", name, header, value, found, want, wantFound)
		}
	})
}
