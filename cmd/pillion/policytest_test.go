package main

import (
	"strings"
	"testing"
)

func TestPolicyTests(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"good":    {[]string{"testdata/policies/good_test.yaml"}, 0},
		"verbose": {[]string{"-v", "testdata/policies/good_test.yaml"}, 0},
		"access":  {[]string{"-v", "testdata/policies/access_test.yaml"}, 1},
		"bad":     {[]string{"testdata/policies/good_test.yaml", "testdata/policies/bad_test.yaml"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := pillion(t, append([]string{"test"}, c.args...)...)
			if code != c.code {
				t.Errorf("exit %d", code)
			}
			golden(t, "test/"+name, stdout+stderr)
		})
	}
}

func TestPolicyTestErrors(t *testing.T) {
	t.Parallel()
	path := folder(t,
		"p.yaml", "policies: [{name: a, service: b, retry: {max_attempts: 2, conditions: [connect-failure], initial_backoff: 1s, max_backoff: 10ms}}]\n",
		"wrong.yaml", "policies: [p.yaml]\ncases: [{service: b, method: a.B/C, expect: {timeout: soon}}]\n",
		"refused.yaml", "policies: [p.yaml]\ncases: [{service: b, method: a.B/C, expect: {}}]\n",
		"metadata.yaml", "policies: ["+`"`+"EMPTY"+`"`+"]\ncases:\n- {service: b, method: a.B/C, metadata: {A: b}, expect: {}}\n",
		"EMPTY", "policies: []\n",
	)
	for name, want := range map[string]string{
		"":              "no file is given, such as: pillion test policy_test.yaml",
		"wrong.yaml":    path + `/wrong.yaml:2:55: cases[0].expect.timeout: "soon" is not a duration`,
		"refused.yaml":  path + "/p.yaml:1:124: policies[0].retry.max_backoff: is 10ms, less than initial_backoff, 1s",
		"metadata.yaml": path + `/metadata.yaml:3:3: cases[0]: metadata "A": keys are in lower case on the wire: write "a"`,
		"none.yaml":     path + "/none.yaml: cannot be read: file does not exist: check the path",
	} {
		args := []string{"test"}
		if name != "" {
			args = append(args, path+"/"+name)
		}
		code, stdout, stderr := pillion(t, args...)
		if code != 1 || stdout != "" || !strings.HasPrefix(stderr, "pillion: "+want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit %d\n got %q %q\nwant %q", name, code, stdout, stderr, want)
		}
	}
}
