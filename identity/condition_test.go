package identity_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/identity"
)

// Only news are logged, and since when it fails is when that began.
func TestCondition(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	now := time.Unix(1000, 0)
	began := now.Add(time.Second) // after the first step, which fails nothing
	c := identity.NewCondition(identity.Status{Kind: "files", Location: "here"}, identity.ConditionOptions{
		Logger: slog.New(slog.NewTextHandler(&log, nil)), Now: func() time.Time { return now },
		Fails: "fails", Well: "well", Args: []any{"at", "here"},
	})
	for _, step := range []struct {
		err   error
		since time.Time
		says  string // in the log, "" nothing
	}{
		{nil, time.Time{}, ""},
		{errors.New("one"), began, "level=WARN msg=fails at=here error=one"},
		{errors.New("one"), began, ""},
		{errors.New("two"), began, "level=WARN msg=fails at=here error=two"},
		{nil, time.Time{}, "level=INFO msg=well at=here"},
		{nil, time.Time{}, ""},
		{errors.New("two"), began.Add(5 * time.Second), "level=WARN msg=fails at=here error=two"},
	} {
		log.Reset()
		c.Note(step.err)
		if s := c.Status(); s.Kind != "files" || s.Location != "here" || !errors.Is(s.Err, step.err) || !s.Since.Equal(step.since) {
			t.Errorf("after %v: %+v, want since %v", step.err, s, step.since)
		}
		if said := log.String(); (step.says == "") != (said == "") || !strings.Contains(said, step.says) {
			t.Errorf("after %v: logged %q, want %q", step.err, said, step.says)
		}
		now = now.Add(time.Second)
	}
}
