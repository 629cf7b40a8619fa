package wire_test

import (
	"testing"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

func TestFlags(t *testing.T) {
	t.Parallel()
	want := []string{"", "UH", "UF", "UO", "UT", "UR", "UC", "URX", "NR", "DC", "DT", "DI", "FI", "RL", "UAEX", "DPE", "UPE", "OM"}
	if len(want) != wire.NumFlags {
		t.Fatalf("%d flags, want %d", wire.NumFlags, len(want))
	}
	for i, code := range want {
		f := wire.Flag(i)
		if f.String() != code {
			t.Errorf("Flag(%d) is %q, want %q", i, f, code)
		}
		if got := wire.ParseFlag(code); got != f {
			t.Errorf("ParseFlag(%q) = %d, want %d", code, got, f)
		}
	}
	if s := wire.Flag(255).String(); s != "" {
		t.Errorf("an unknown flag is %q", s)
	}
	for _, s := range []string{"XX", "uh", "UH,UF", " "} {
		if f := wire.ParseFlag(s); f != wire.FlagNone {
			t.Errorf("ParseFlag(%q) = %v", s, f)
		}
	}
}
