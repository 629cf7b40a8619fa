package main

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDefaultOptions(t *testing.T) {
	t.Parallel()
	o, err := parseOptions(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.rounds < 5 || o.requests != 0 || o.out != defaultOut || len(o.given) != 0 {
		t.Errorf("options %+v", o)
	}
	if want := []shape{{8, 32}, {64, 8}, {16, 1}}; !slices.Equal(o.shapes, want) {
		t.Errorf("shapes %v, want %v", o.shapes, want)
	}
	if !slices.Equal(o.settings, settingNames()) || len(o.peers) != 6 || !slices.Equal(o.parts, allParts()) {
		t.Errorf("settings %v, peers %v, parts %v", o.settings, o.peers, o.parts)
	}
}

func TestQuickIsShortAndWritesNoPage(t *testing.T) {
	t.Parallel()
	o, err := parseOptions([]string{"-quick"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.rounds != 1 || o.requests != quickRequests || o.runTime != quickTime || o.out != "" {
		t.Errorf("options %+v", o)
	}
	o, err = parseOptions([]string{"-quick", "-rounds=3", "-n=7", "-time=1s", "-out=page"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.rounds != 3 || o.requests != 7 || o.runTime != time.Second || o.out != "page" {
		t.Errorf("what was said besides is lost: %+v", o)
	}
}

func TestVsMeasuresTwoPillions(t *testing.T) {
	t.Parallel()
	o, err := parseOptions([]string{"-vs=/some/where/pillion", "-rounds=9"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(o.peers, []string{pillionName, otherName}) || o.out != "" {
		t.Errorf("options %+v", o)
	}
	if !slices.Equal(o.given, []string{"-rounds=9"}) {
		t.Errorf("the command shown has %v, want -rounds=9 and no path", o.given)
	}
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, want string }{
		{"-shapes=8", "-shapes"},
		{"-peers=haproxy,ngninx", `"ngninx"`},
		{"-peers=other", "-vs"},
		{"-settings=three", "one, two"},
		{"-parts=all", "unary"},
		{"-rounds=0", "-rounds"},
		{"-time=0s", "-time"},
		{"-n=-1", "-n"},
		{"quick", `"quick"`},
	} {
		_, err := parseOptions(strings.Fields(c.args), io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want one line with %s", c.args, err, c.want)
		}
	}
}
