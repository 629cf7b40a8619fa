package identity_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/identitytest"
)

func TestParsePair(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "example.org")
	cert, other := ca.Intermediate().Issue("/svc/web"), ca.Issue("/svc/web")
	chain, key := identitytest.ChainPEM(cert), identitytest.KeyPEM(t, cert)
	pair, err := identity.ParsePair(chain, key)
	if err != nil || len(pair.Certificate) != 2 || !bytes.Equal(pair.Leaf.Raw, cert.Leaf.Raw) {
		t.Fatalf("%v, %v", pair, err)
	}
	if _, err := identity.ParsePair(append(key, chain...), append(chain, key...)); err != nil {
		t.Errorf("both in one file: %v", err)
	}
	for name, c := range map[string]struct {
		chain, key []byte
		want       string
	}{
		"nothing":               {nil, key, "no certificate is in it"},
		"no key":                {chain, nil, "key input"},
		"the key of another":    {chain, identitytest.KeyPEM(t, other), "does not match"},
		"cut in the leaf":       {chain[:100], key, "is not whole"},
		"cut in what follows":   {chain[:len(chain)-100], key, "what follows certificate 1 is not whole"},
		"a key that is no key":  {chain, []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "parse private key"},
		"a certificate of junk": {[]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), key, "certificate 1 cannot be parsed"},
	} {
		if _, err := identity.ParsePair(c.chain, c.key); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestParseRoots(t *testing.T) {
	t.Parallel()
	ca, other := identitytest.CA(t, "example.org"), identitytest.CA(t, "example.org")
	roots, err := identity.ParseRoots(append([]byte("# ours\n"), identitytest.RootsPEM(ca, other)...))
	if err != nil || len(roots) != 2 || !roots[1].Equal(other.Root) {
		t.Errorf("%v, %v", roots, err)
	}
	if _, err := identity.ParseRoots(identitytest.ChainPEM(ca.Issue("/svc/web"))); err == nil || !strings.Contains(err.Error(), `"CN=test leaf" is no CA's`) {
		t.Errorf("a leaf as a root: %v", err)
	}
	if _, err := identity.ParseRoots([]byte("x")); err == nil {
		t.Error("nothing is no error")
	}
}

func TestReadKeyFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[os.FileMode]string{
		0o600: "", 0o400: "", 0o640: "", 0o440: "", 0o700: "",
		0o644: "has mode 0644, so it can be read or changed by others than its owner and group: chmod 0600 " + path,
		0o604: "by others", 0o602: "by others", 0o601: "by others", 0o660: "so it can be changed by its group: chmod 0600", 0o620: "by its group",
	} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		text, err := identity.ReadKeyFile(path)
		switch {
		case want == "" && (err != nil || string(text) != "secret"):
			t.Errorf("%04o: %v", mode, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret")):
			t.Errorf("%04o: %v, want %q", mode, err, want)
		}
		if _, err := identity.ReadFile(path); err != nil {
			t.Errorf("%04o, not as a key: %v", mode, err)
		}
	}
}

func TestReadFileFails(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	large := filepath.Join(folder, "large")
	if err := os.WriteFile(large, make([]byte, 1<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		large:           large + " is larger than 1048576 bytes",
		folder + "/not": folder + "/not cannot be read: no such file or directory",
		folder:          folder + " cannot be read: is a directory",
	} {
		if _, err := identity.ReadFile(path); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
