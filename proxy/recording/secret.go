package recording

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// secretWords are what names of metadata keys and cookies have in them whose values let
// somebody in, or are likely to: those of API keys, tokens and sessions. Names are looked
// at in lower case, and without what divides words.
var secretWords = []string{
	"apikey", "accesskey", "privatekey", "securitykey", "token", "secret", "passw", "credential", "auth", "jwt", "bearer", "sess",
	"signature", "assertion", "cookie", "otp",
}

// secretEnds are further endings of such names, as of "connect.sid".
var secretEnds = []string{"sid", "pwd", "pin"}

var dividers = strings.NewReplacer("-", "", "_", "", ".", "")

// Secret says whether the values of a metadata key, or of a cookie, are never remembered as
// they are, by its name.
func Secret(name string) bool {
	name = dividers.Replace(strings.ToLower(strings.TrimSuffix(name, "-bin")))
	for _, word := range secretWords {
		if strings.Contains(name, word) {
			return true
		}
	}
	for _, end := range secretEnds {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return false
}

// hiddenPrefix is what stands before what takes a secret value's place.
const hiddenPrefix = "hidden-"

// keeper keeps of secret values whether they are the same, and nothing else: what takes
// their place depends on a key that nobody knows and that ends with the process.
type keeper [32]byte

func newKeeper() (k keeper) {
	_, _ = rand.Read(k[:]) // which never fails
	return k
}

// kept is what is remembered of a field: a copy of it, without its value where that is
// secret. false: it is too long.
func (k *keeper) kept(f hpack.Field) (hpack.Field, bool) {
	name, value, before := f.Name, f.Value, ""
	if f.Name == cookie {
		name, value, _ = strings.Cut(f.Value, "=")
		before = name + "="
	}
	if Secret(name) {
		value = before + k.hidden(value)
	} else {
		value = f.Value
	}
	if len(value) > maxValue {
		return hpack.Field{}, false
	}
	return hpack.Field{Name: strings.Clone(f.Name), Value: strings.Clone(value)}, true
}

// cookie is the name of the fields that each hold one cookie.
const cookie = "cookie"

// hidden takes the place of a secret value.
func (k *keeper) hidden(value string) string {
	h := sha256.New()
	h.Write(k[:])
	h.Write([]byte(value))
	return hiddenPrefix + hex.EncodeToString(h.Sum(nil)[:8])
}
