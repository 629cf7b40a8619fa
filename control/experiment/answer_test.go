package experiment

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control/ledger"
	"github.com/pillion-proxy/pillion/control/requests"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// A start that was asked for long ago is refused; a stop is done whenever it was asked, and
// what people say of it can be written whatever it is.
func TestOldAndLongRequests(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	ago := timestamppb.New(now.Add(-2 * time.Hour))
	s, err := (&leading{}).answer(ledger.Entry{Name: "buttons", Request: &controlv1.Request{Number: 3, Action: controlv1.Action_ACTION_START, Time: ago}}, now)
	if err != nil || s.GetRequest() != 3 || runs(s) || !strings.Contains(requests.Refused(s), "ask again") {
		t.Errorf("it stands at %v: %v", s, err)
	}
	s, err = (&leading{}).answer(ledger.Entry{
		Name: "buttons", State: &controlv1.RunState{Phase: controlv1.Phase_PHASE_RUNNING, Request: 3},
		Request: &controlv1.Request{Number: 4, Action: controlv1.Action_ACTION_STOP, Time: ago, Message: "x" + strings.Repeat("é", 600) + "\x1b[31m"},
	}, now)
	if err != nil || s.GetRequest() != 4 || runs(s) || !utf8.ValidString(requests.Refused(s)) || strings.Contains(requests.Refused(s), "\x1b") {
		t.Errorf("it stands at %v: %v", s, err)
	}
}
