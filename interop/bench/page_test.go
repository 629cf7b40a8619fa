package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestPageKeepsWhatIsAroundTheMarkers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(path, []byte("a\n\n"+beginMarker+"\nold\n"+endMarker+"\n\nb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tables := range []string{"first\n", "second\n\n"} {
		p, err := readPage(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.write(tables); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := "a\n\n" + beginMarker + "\n\nsecond\n\n" + endMarker + "\n\nb\n"; string(b) != want {
		t.Errorf("the page is %q, want %q", b, want)
	}
}

func TestPageWithoutMarkersIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"none":    "a\n",
		"one":     beginMarker + "\n",
		"swapped": endMarker + "\n" + beginMarker + "\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readPage(path); err == nil {
			t.Errorf("a page with %s of the markers is taken", name)
		}
	}
	if _, err := readPage(filepath.Join(dir, "missing")); err == nil {
		t.Error("a page that is not there is taken")
	}
}
