package experiment

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/ledger"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

const (
	// listTimeout bounds the question what else runs.
	listTimeout = 5 * time.Second
	// Two experiments of one layer may start at two elected sidecars in the same moment,
	// neither of which sees the other's before it has written its own. So each looks again,
	// at once and after lookBeside: by then a start is written that was allowed before this
	// one could be seen, as neither listing nor writing takes longer than storeTimeout.
	lookBeside = 3 * listTimeout
)

// statesPrefix is what the states of all services are below.
const statesPrefix = control.Root + "state/"

// other is an experiment that runs beside one.
type other struct {
	document *configv1.Experiment // its defaults are filled in
	state    *controlv1.RunState
}

func documentsOf(others []other) []*configv1.Experiment {
	list := make([]*configv1.Experiment, 0, len(others))
	for _, o := range others {
		list = append(list, o.document)
	}
	return list
}

// others returns the experiments that run beside one of this service: of all services where
// it is in a layer.
func (l *leading) others(name string, layered bool) ([]other, error) {
	ctx, cancel := context.WithTimeout(l.ledger.Context(), listTimeout)
	defer cancel()
	prefix := control.StatePrefix(l.service)
	if layered {
		prefix = statesPrefix
	}
	entries, err := l.store.List(ctx, prefix)
	if errors.Is(err, kv.ErrDenied) && layered {
		l.log.Warn("experiment: whether its layer is used by experiments of other services cannot be known, and is not looked at",
			slog.String("experiment", name), slog.Any("error", err))
		entries, err = l.store.List(ctx, control.StatePrefix(l.service))
	}
	if err != nil {
		return nil, err
	}
	var list []other
	for _, entry := range entries {
		state := &controlv1.RunState{}
		if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(entry.Value, state) != nil ||
			state.GetKind() != string(control.Experiment) || !runs(state) || state.GetName() == name && state.GetService() == l.service {
			continue
		}
		if doc, err := decode(state.GetDocument()); err == nil {
			list = append(list, other{doc, state})
		}
	}
	slices.SortFunc(list, func(a, b other) int { return strings.Compare(a.document.GetName(), b.document.GetName()) })
	return list, nil
}

// yields returns the state after an experiment that gives way to one that has units in
// common with it, and started before it, or in the same moment and has its name before it;
// nil: there is none, or it is not the time to look.
func (l *leading) yields(e ledger.Entry, now time.Time) *controlv1.RunState {
	doc := l.besides(e, now)
	if doc == nil {
		return nil
	}
	others, err := l.others(e.Name, true)
	if err != nil {
		l.log.Warn("experiment: whether another one of its layer runs cannot be known now; that is looked at later",
			slog.String("experiment", e.Name), slog.Any("error", err))
		return nil
	}
	l.looked(e, now)
	earlier := slices.DeleteFunc(others, func(o other) bool { return !before(o.state, e.State) })
	why := Problem(doc, documentsOf(earlier))
	if why == "" {
		return nil
	}
	return ended(e.State, "it was started in the same moment as another one, and gives way: "+why, l.o.ID, now)
}

// before says whether a state's run came before another's. All sidecars say the same.
func before(a, b *controlv1.RunState) bool {
	if order := a.GetStarted().AsTime().Compare(b.GetStarted().AsTime()); order != 0 {
		return order < 0
	}
	if order := strings.Compare(a.GetService(), b.GetService()); order != 0 {
		return order < 0
	}
	return a.GetName() < b.GetName()
}

// besides returns the document of a run that is in a layer, and for which it is time to look
// what runs beside it; nil: it is not. What fails is tried again after listTimeout.
func (l *leading) besides(e ledger.Entry, now time.Time) *configv1.Experiment {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.runs[e.Name]
	if r == nil || r.pool == nil || r.experiment.GetLayer() == nil || r.besideLooks == 2 || now.Before(r.besideNext) {
		return nil
	}
	r.besideNext = now.Add(listTimeout)
	return r.experiment
}

// looked notes that it was looked what runs beside a run.
func (l *leading) looked(e ledger.Entry, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.runs[e.Name]; r != nil {
		r.besideLooks++
		r.besideNext = now.Add(lookBeside)
	}
}
