package telemetry

import (
	"bytes"
	"strings"
	"testing"
)

// The texts of a line are as long as they may be, and no longer.
func TestTextsAreBounded(t *testing.T) {
	t.Parallel()
	for limits, want := range map[TextLimits][3]int{
		{}:                                  {256, 512, 1024},
		{Name: 20, Path: 30, Message: 2000}: {20, 30, 2000},
	} {
		var log bytes.Buffer
		l := NewAccessLog(&log, AccessLogOptions{Sample: 1, Texts: limits})
		long := strings.Repeat("x", 5000)
		l.Log(&Record{Peer: long, Source: long, Identity: long, Authority: long, Path: long, Service: long, Route: long, Instance: long, Message: long})
		closeLog(t, l)
		line := lines(t, log.Bytes())[0]
		for key, n := range map[string]int{
			"peer": want[0], "source": want[0], "identity": want[0], "authority": want[0], "service": want[0], "route": want[0], "instance": want[0],
			"path": want[1], "message": want[2],
		} {
			if got := len(line[key].(string)); got != n {
				t.Errorf("%d bytes of %s are logged, want %d", got, key, n)
			}
		}
	}
}
