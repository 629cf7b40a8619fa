package recording

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSecretNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"authorization", "Authorization", "proxy-authorization", "cookie", "x-api-key", "api_key", "apikey", "x-auth-request-user", "x-goog-api-key",
		"x-amz-security-token", "x-csrf-token", "session", "session-id", "JSESSIONID", "PHPSESSID", "connect.sid", "sid", "id-token-bin",
		"x-client-secret", "password", "jwt", "x-hub-signature-256", "refresh_token",
	} {
		if !Secret(name) {
			t.Errorf("%q is remembered in clear", name)
		}
	}
	for _, name := range []string{"user-id", "x-user", "tenant", "x-request-id", "theme", "lang", "x-canary", "pillion-force", "account-bin", "experiment", ""} {
		if Secret(name) {
			t.Errorf("%q cannot be looked at by plan", name)
		}
	}
}

// Of a secret it is known whether it is the same, in this process alone; however long it is,
// nothing of it is kept.
func TestSecretsAreHidden(t *testing.T) {
	t.Parallel()
	mentions := mentioning(t, []string{"x-api-key", "user", "key-token-bin"}, []string{"sid", "lang"})
	rapid.Check(t, func(t *rapid.T) {
		r := New(Options{Size: 10})
		defer r.Close()
		r.SetMentions(mentions)
		secret := "5ecret" + rapid.StringMatching(`[a-zA-Z0-9.]{0,600}`).Draw(t, "secret")
		for range 2 {
			r.Add(time.Now(), "greeter", "/a.B/C", "web", fields("user", "ann", "x-api-key", secret, "key-token-bin", secret, "cookie", "lang=de; sid="+secret))
		}
		r.Add(time.Now(), "greeter", "/a.B/C", "web", fields("x-api-key", secret+"x"))
		got := texts(r.Recorded())
		if strings.Contains(strings.Join(got, " "), "5ecret") {
			t.Fatalf("kept: %q", got)
		}
		hidden := r.keeper.hidden(secret)
		if want := "greeter/a.B/C web: user=ann x-api-key=" + hidden + " key-token-bin=" + hidden + " cookie=lang=de cookie=sid=" + hidden; got[0] != want || got[1] != want {
			t.Errorf("%q, want %q", got, want)
		}
		if strings.Contains(got[2], hidden) || New(Options{Size: 1}).keeper.hidden(secret) == hidden {
			t.Error("two secrets look the same, or one the same in two processes")
		}
	})
}
