package consul

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/registry"
)

func kept() *registry.Service {
	return &registry.Service{
		Name: "greeter", GRPC: []string{"helloworld.Greeter"},
		Endpoints: []registry.Endpoint{
			{ID: "n/a", Address: "10.0.0.1:1", Weight: 3, Meta: map[string]string{"version": "v1"}, Tags: []string{"x"}},
			{ID: "n/b", Address: "unix:///run/b.sock", Weight: 1, Security: registry.SecurityMTLS, Identities: []string{"spiffe://{trust_domain}/b"}, ServerName: "b.{trust_domain}"},
		},
	}
}

func TestCacheKeepsWhatItIsGiven(t *testing.T) {
	t.Parallel()
	disk := &cache{limits: standard, dir: filepath.Join(t.TempDir(), "a", "b"), scope: cacheScope{Datacenter: "dc2"}}
	if got, found, err := disk.load("greeter"); got != nil || found || err != nil {
		t.Fatalf("before: %v, %v", got, err)
	}
	if err := disk.save("greeter", kept()); err != nil {
		t.Fatal(err)
	}
	got, _, err := disk.load("greeter")
	if err != nil || !same(got, kept()) {
		t.Fatalf("got %+v, %v", got, err)
	}
	// Other names, and other scopes of the same folder, have files of their own.
	for _, other := range []struct {
		disk *cache
		name string
	}{{disk, "other"}, {&cache{limits: standard, dir: disk.dir}, "greeter"}, {nil, "greeter"}} {
		if got, found, err := other.disk.load(other.name); got != nil || found || err != nil {
			t.Errorf("%+v: %v, %v", other, got, err)
		}
	}
	for range 2 {
		if err := disk.save("greeter", nil); err != nil {
			t.Fatal(err)
		}
	}
	if got, found, err := disk.load("greeter"); got != nil || found || err != nil {
		t.Fatalf("after: %v, %v", got, err)
	}
}

func TestCacheBelievesNothingUnchecked(t *testing.T) {
	t.Parallel()
	good, err := encodeCache(&standard, cacheScope{}, "greeter", kept(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, replace := range map[string][2]string{
		"another version":  {`"version":1`, `"version":2`},
		"another service":  {`"service":"greeter"`, `"service":"farewell"`},
		"another scope":    {`"scope":{}`, `"scope":{"namespace":"x"}`},
		"a bad address":    {`10.0.0.1:1"`, `10.0.0.1"`},
		"an id twice":      {`"n/a"`, `"n/b"`},
		"no id":            {`"n/a"`, `""`},
		"a mad weight":     {`"weight":3`, `"weight":-3`},
		"a mad security":   {`"security":3`, `"security":4`},
		"a mad identity":   {`"spiffe://`, `"https://`},
		"half of it":       {`"endpoints"`, "\x00"},
		"something else":   {string(good), `[]`},
		"nothing":          {string(good), ``},
		"too much of it":   {string(good), strings.Repeat(" ", standard.CacheFileBytes) + string(good)},
		"not what it says": {`"endpoints":[`, `"endpoints":[7,`},
	} {
		content := strings.Replace(string(good), replace[0], replace[1], 1)
		if content == string(good) {
			t.Fatalf("%s: nothing to replace", name)
		}
		if got, err := decodeCache(&standard, cacheScope{}, "greeter", []byte(content)); err == nil {
			t.Errorf("%s: believed: %+v", name, got)
		}
	}
}

func FuzzDecodeCache(f *testing.F) {
	good, err := encodeCache(&standard, cacheScope{}, "greeter", kept(), time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, content []byte) {
		service, err := decodeCache(&standard, cacheScope{}, "greeter", content)
		if err != nil {
			return
		}
		again, err := encodeCache(&standard, cacheScope{}, "greeter", service, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeCache(&standard, cacheScope{}, "greeter", again); err != nil || !same(back, service) {
			t.Fatalf("%+v became %+v, %v", service, back, err)
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	disk := &cache{limits: standard, dir: t.TempDir()}
	long := time.Now().Add(-48 * time.Hour)
	file := func(name string, at time.Time) string {
		path := filepath.Join(disk.dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}

		return path
	}
	for i := range standard.CachedServices {
		file(fmt.Sprintf("s%d%s", i, cacheSuffix), long.Add(time.Duration(i)*time.Second))
	}
	foreign := file("notes.txt", long.Add(-time.Hour))
	interrupted := file(".tmp-1"+cacheSuffix, long)
	if err := disk.save("greeter", kept()); err != nil {
		t.Fatal(err)
	}

	entries, err := os.ReadDir(disk.dir)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "files", len(entries), standard.CachedServices+1) // and what is not ours
	for path, wanted := range map[string]bool{
		foreign: true, interrupted: false, disk.path("greeter"): true,
		filepath.Join(disk.dir, "s0"+cacheSuffix): false, filepath.Join(disk.dir, "s1"+cacheSuffix): true,
	} {
		if _, err := os.Stat(path); (err == nil) != wanted {
			t.Errorf("%s: %v, want it there: %t", path, err, wanted)
		}
	}
	// What is there already is replaced without making room.
	if err := disk.save("greeter", kept()); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.ReadDir(disk.dir); len(again) != len(entries) {
		t.Fatalf("%d files", len(again))
	}
}
