package recording

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mentioning is what policies mention that look at these keys and cookies.
func mentioning(tb testing.TB, keys, cookies []string) *policy.Mentions {
	tb.Helper()
	var conditions, crumbs []string
	for _, key := range keys {
		conditions = append(conditions, fmt.Sprintf("{key: %q, present: true}", key))
	}
	for _, name := range cookies {
		crumbs = append(crumbs, fmt.Sprintf("{key: %q, present: true}", name))
	}
	mesh, err := configyaml.ParseMesh("mesh.yaml", fmt.Appendf(nil,
		"policies: [{name: p, service: greeter, route: {rules: [{match: {metadata: [%s], cookies: [%s]}, to: {}}]}}]",
		strings.Join(conditions, ","), strings.Join(crumbs, ",")))
	if err != nil {
		tb.Fatal(err)
	}
	set, refused := policy.Compile(mesh.GetPolicies(), nil, policy.Env{})
	if len(refused) > 0 {
		tb.Fatal(refused)
	}
	return set.Mentions()
}

func fields(pairs ...string) (list []hpack.Field) {
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, hpack.Field{Name: pairs[i], Value: pairs[i+1]})
	}
	return list
}

func texts(rpcs []RPC) (all []string) {
	for _, r := range rpcs {
		text := r.Service + r.Path + " " + r.Caller + ":"
		for _, f := range r.Fields {
			text += " " + f.Name + "=" + f.Value
		}
		all = append(all, text)
	}
	return all
}

// Of an RPC's metadata what policies mention is kept, and nothing else; when they mention
// it no more, it is gone.
func TestWhatIsKept(t *testing.T) {
	t.Parallel()
	r := New(Options{Size: 10})
	r.SetMentions(mentioning(t, []string{"user", "id-bin", "authorization", "cookie", "long"}, []string{"session", "theme"}))
	secret := hpack.Field{Name: "user", Value: "never indexed", Sensitive: true}
	buffer := []byte("alice")
	r.Add(time.Now(), "greeter", "/a.B/C", "web", append(fields(
		":path", "/a.B/C", "user", string(buffer), "other", "x", "user", "bob", "authorization", "Bearer x", "id-bin", "AA",
		"cookie", `a=1; session="s 1"; theme = dark; b`, "cookie", "token=x; session=2",
		"long", strings.Repeat("x", maxValue+1)), secret))
	first, second := r.keeper.hidden(`"s 1"`), r.keeper.hidden("2")
	want := `greeter/a.B/C web: user=alice user=bob id-bin=AA cookie=session=` + first + ` cookie=theme=dark cookie=session=` + second
	if got := texts(r.Recorded()); len(got) != 1 || got[0] != want {
		t.Errorf("%q, want %q", got, want)
	}
	taken := r.bytes
	before := r.Recorded()
	r.SetMentions(mentioning(t, []string{"id-bin", "new"}, []string{"theme"}))
	if got := texts(r.Recorded()); got[0] != "greeter/a.B/C web: id-bin=AA cookie=theme=dark" || r.bytes >= taken {
		t.Errorf("%q, %d bytes of %d", got, r.bytes, taken)
	}
	if texts(before)[0] != want {
		t.Errorf("what was handed out became %q", texts(before))
	}
	r.SetMentions(nil)
	r.Add(time.Now(), "greeter", "/a.B/C", "", fields("id-bin", "AA"))
	if got := texts(r.Recorded()); got[0] != "greeter/a.B/C web:" || got[1] != "greeter/a.B/C :" {
		t.Errorf("%q", got)
	}
	r.Close()
	if r.Add(time.Now(), "greeter", "/a.B/C", "", nil); len(r.Recorded()) != 0 {
		t.Error("something is remembered after the end")
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	r := New(Options{Size: 3, MaxBytes: 1500})
	r.SetMentions(mentioning(t, []string{"k"}, nil))
	var many []hpack.Field
	for i := range 2 * maxFields {
		many = append(many, hpack.Field{Name: "k", Value: fmt.Sprint(i)})
	}
	if r.Add(time.Now(), "s", "/many", "", many); len(r.Recorded()) != 0 {
		t.Errorf("an RPC is remembered that takes more than all may: %d bytes", r.bytes)
	}
	r.opts.MaxBytes = 10_000
	if r.Add(time.Now(), "s", "/many", "", many); len(r.Recorded()[0].Fields) != maxFields {
		t.Errorf("%d values of one RPC are kept", len(r.Recorded()[0].Fields))
	}
	long := strings.Repeat("x", maxText+1)
	for _, text := range [][3]string{{long, "/p", ""}, {"s", long, ""}, {"s", "/p", long}} {
		if r.Add(time.Now(), text[0], text[1], text[2], nil); len(r.Recorded()) != 1 {
			t.Fatal("an RPC is remembered whose names are too long")
		}
	}
	for i := range 5 {
		r.Add(time.Now(), "s", fmt.Sprint("/", i), "", nil)
	}
	if got := texts(r.Recorded()); fmt.Sprint(got) != "[s/2 : s/3 : s/4 :]" {
		t.Errorf("%q", got)
	}
	none := New(Options{})
	none.Add(time.Now(), "s", "/p", "", nil)
	none.SetMentions(nil)
	none.Close()
	if none != nil || none.Recorded() != nil || none.OneIn() != 0 || none.Gap(nil) != never {
		t.Error("something is remembered where nothing is to be")
	}
}

// What is too old is gone, whether or not another RPC comes.
func TestAges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := New(Options{Size: 10, MaxAge: time.Minute})
		defer r.Close()
		for i := range 3 {
			r.Add(time.Now(), "s", fmt.Sprint("/", i), "", nil)
			time.Sleep(20 * time.Second)
		}
		if got := texts(r.Recorded()); fmt.Sprint(got) != "[s/1 : s/2 :]" {
			t.Errorf("%q", got)
		}
		time.Sleep(42 * time.Second)
		synctest.Wait()
		if r.count != 0 || r.bytes != 0 { // not even asked for
			t.Errorf("%d RPCs with %d bytes are kept", r.count, r.bytes)
		}
		r.Add(time.Now(), "s", "/late", "", nil)
		time.Sleep(30 * time.Second)
		if got := texts(r.Recorded()); len(got) != 1 {
			t.Errorf("%q", got)
		}
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if r.count != 0 {
			t.Errorf("%d RPCs are kept", r.count)
		}
	})
}

// One of so many is remembered, whoever counts and however often he begins anew.
func TestGaps(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	const oneIn, rpcs = 50, 400_000
	r := New(Options{Size: 1, OneIn: oneIn})
	remembered, left := 0, r.Gap(random.Uint64)
	for range rpcs {
		if left--; left == 0 {
			remembered++
			left = r.Gap(random.Uint64)
		}
		if random.IntN(30) == 0 { // the garbage collector took what counted
			left = r.Gap(random.Uint64)
		}
	}
	if want := float64(rpcs) / oneIn; math.Abs(float64(remembered)-want) > 5*math.Sqrt(want) {
		t.Errorf("%d of %d are remembered, want %v", remembered, rpcs, want)
	}
	if r := New(Options{Size: 1}); r.Gap(nil) != 1 || r.OneIn() != 1 {
		t.Error("not each is remembered")
	}
	extreme := New(Options{Size: 1, OneIn: 1_000_000})
	for _, draw := range []uint64{0, math.MaxUint64} {
		if gap := extreme.Gap(func() uint64 { return draw }); gap < 1 || gap > never {
			t.Errorf("a gap of %d", gap)
		}
	}
}

// Whatever comes and goes, the ring has what a list would have, and counts its bytes.
func TestTheRingIsAsAList(t *testing.T) {
	t.Parallel()
	one, two := mentioning(t, []string{"a", "b"}, nil), mentioning(t, []string{"b"}, nil)
	rapid.Check(t, func(t *rapid.T) {
		o := Options{Size: rapid.IntRange(1, 40).Draw(t, "size"), MaxBytes: rapid.IntRange(200, 4000).Draw(t, "bytes"), MaxAge: 100 * time.Second}
		r := New(o)
		defer r.Close()
		// All at times long gone or to come, so that no clock says anything.
		now := time.Now().Add(time.Hour)
		mentions := one
		r.SetMentions(one)
		var model []RPC
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				now = now.Add(time.Duration(rapid.IntRange(0, 60).Draw(t, "seconds")) * time.Second)
			case 1:
				mentions = rapid.SampledFrom([]*policy.Mentions{one, two}).Draw(t, "mentions")
				r.SetMentions(mentions)
				for i := range model {
					var kept []hpack.Field
					for _, f := range model[i].Fields {
						if mentions.Has(f) {
							kept = append(kept, f)
						}
					}
					model[i].Fields = kept
				}
			default:
				all := fields("a", strings.Repeat("x", rapid.IntRange(0, 200).Draw(t, "a")), "b", "y", "c", "z")
				rpc := RPC{Time: now, Service: "s", Path: fmt.Sprint("/", rapid.IntRange(0, 9).Draw(t, "path"))}
				mentions.Fields(all, func(f hpack.Field) bool {
					rpc.Fields = append(rpc.Fields, f)
					return true
				})
				r.Add(now, rpc.Service, rpc.Path, "", all)
				if rpc.size() > o.MaxBytes {
					continue
				}
				bytes := func() (n int) {
					for i := range model {
						n += model[i].size()
					}
					return n
				}
				for len(model) > 0 && (now.Sub(model[0].Time) >= o.MaxAge || len(model) == o.Size || bytes()+rpc.size() > o.MaxBytes) {
					model = model[1:]
				}
				model = append(model, rpc)
			}
			sum := 0
			for i := range model {
				sum += model[i].size()
			}
			if got := r.Recorded(); fmt.Sprint(texts(got)) != fmt.Sprint(texts(model)) || r.bytes != sum {
				t.Fatalf("%q with %d bytes, want %q with %d", texts(got), r.bytes, texts(model), sum)
			}
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	r := New(Options{Size: 1000, MaxAge: time.Hour})
	defer r.Close()
	r.SetMentions(mentioning(b, []string{"user"}, nil))
	list, now := fields("user", "alice", "te", "trailers", "user-agent", "grpc-go"), time.Now()
	b.ReportAllocs()
	for b.Loop() {
		r.Add(now, "greeter", "/helloworld.Greeter/SayHello", "web", list)
	}
}
