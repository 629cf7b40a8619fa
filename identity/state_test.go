package identity_test

import (
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/identity"
	"github.com/pillion-proxy/pillion/identity/identitytest"
)

// However a state is printed, its key is not shown.
func TestStateHidesItsKey(t *testing.T) {
	t.Parallel()
	ca := identitytest.CA(t, "example.org")
	state := ca.State(ca.Issue("/svc/web"))
	key, ok := state.Certificate.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("the key is a %T", state.Certificate.PrivateKey)
	}
	secret, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	log := &record{}
	log.logger().Info("state", "pointer", state, "value", *state, "any", []any{state})
	texts := log.take()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%t"} {
		texts = append(texts, fmt.Sprintf(verb, state), fmt.Sprintf(verb, *state), fmt.Sprintf(verb, []any{state, *state}))
	}
	for _, value := range []any{state, *state, struct{ State *identity.State }{state}} {
		text, err := json.Marshal(value)
		if err != nil {
			t.Error(err)
		}
		texts = append(texts, string(text))
	}
	d := fmt.Sprintf("%x", secret)
	for _, text := range texts {
		for name, form := range map[string]string{
			"hexadecimal": d, "decimal": new(big.Int).SetBytes(secret).String(), "base64": base64.StdEncoding.EncodeToString(secret), "bytes": strings.Trim(fmt.Sprintf("%d", secret), "[]"),
		} {
			if strings.Contains(strings.ToLower(text), strings.ToLower(form)) {
				t.Errorf("the key is in %q, %s", text, name)
			}
		}
		if !strings.Contains(text, "spiffe://example.org/svc/web until ") {
			t.Errorf("printed as %q", text)
		}
	}
	if text := fmt.Sprint(ca.State(nil)); text != "no certificate in example.org, roots of example.org" {
		t.Errorf("without a certificate: %q", text)
	}
}

func TestSame(t *testing.T) {
	t.Parallel()
	a, b, other := identitytest.CA(t, "example.org"), identitytest.CA(t, "example.org"), identitytest.CA(t, "other.org")
	cert := a.Issue("/svc/web")
	base := a.State(cert, b)
	for name, c := range map[string]struct {
		state              *identity.State
		certificate, roots bool
	}{
		"itself":                {base, true, true},
		"another order":         {&identity.State{Certificate: cert, Bundles: b.Bundles(a)}, true, true},
		"a root less":           {a.State(cert), true, false},
		"another root":          {a.State(cert, identitytest.CA(t, "example.org")), true, false},
		"another domain":        {a.State(cert, b, other), true, false},
		"no certificate":        {a.State(nil, b), false, true},
		"another certificate":   {a.State(a.Issue("/svc/web"), b), false, true},
		"an intermediate added": {a.State(a.Intermediate().Issue("/svc/web"), b), false, true},
	} {
		if got := base.SameCertificate(c.state); got != c.certificate || c.state.SameCertificate(base) != got {
			t.Errorf("%s: the certificate is the same: %v", name, got)
		}
		if got := base.SameRoots(c.state); got != c.roots || c.state.SameRoots(base) != got {
			t.Errorf("%s: the roots are the same: %v", name, got)
		}
	}
	if none := a.State(nil); !none.SameCertificate(b.State(nil)) {
		t.Error("no certificate is not the same as none")
	}
}
