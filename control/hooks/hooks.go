// Package hooks tells others of transitions of canaries and experiments: commands that the
// sidecar's bootstrap names, and services of the mesh that answer pillion.mesh.v1.Hooks.
// Nothing waits for them, and what they answer changes nothing but the history. It does
// not know what a transition means.
package hooks

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control/kv"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

const (
	// maxRunning bounds the hooks under way; what is beyond is not told.
	maxRunning = 16
	// maxAnswer bounds what is kept of an answer, in bytes.
	maxAnswer = 512
	// defaultTimeout is how long a hook may take that says nothing of it.
	defaultTimeout = 10 * time.Second
	// noteTimeout is how long writing an answer into the history may take.
	noteTimeout = 10 * time.Second
	// noteTries is how often it is tried, as hooks of one transition write one key.
	noteTries = 5
)

// Options are what a Teller needs.
type Options struct {
	// Store keeps the history.
	Store kv.Store
	// Commands are those that hooks may name.
	Commands []*configv1.HookCommand
	// Dial returns a connection to a service of the mesh, and what releases it; nil: no
	// service can be told.
	Dial   func(ctx context.Context, service string) (conn grpc.ClientConnInterface, release func(), err error)
	Logger *slog.Logger
}

// Teller tells hooks. It is made by New and ended by Close.
type Teller struct {
	o       Options
	ctx     context.Context
	cancel  context.CancelFunc
	running chan struct{}
	under   sync.WaitGroup
	noting  sync.Mutex

	mu     sync.Mutex
	closed bool
}

// New returns a Teller.
func New(o Options) *Teller {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Teller{o: o, ctx: ctx, cancel: cancel, running: make(chan struct{}, maxRunning)}
}

// Close ends the hooks that are under way, and waits for that.
func (t *Teller) Close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.cancel()
	t.under.Wait()
}

// Tell tells hooks of a transition that was written under a key. It returns at once; a nil
// Teller tells nobody.
func (t *Teller) Tell(hooks []*configv1.Hook, transition *controlv1.Transition, key string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	transition = proto.CloneOf(transition)
	transition.GetState().Document = nil // which is long, and is in the history by its revision
	for _, guard := range transition.GetState().GetGuards() {
		guard.Evidence = nil // which is for the test to go on from; p says what it comes to
	}
	for _, hook := range hooks {
		t.under.Go(func() { t.tell(hook, transition, key) })
	}
}

func (t *Teller) tell(hook *configv1.Hook, transition *controlv1.Transition, key string) {
	answer, err := t.ask(hook, transition)
	if err != nil {
		answer = "failed: " + err.Error()
		t.o.Logger.Warn("a hook failed", slog.String("hook", hook.GetName()), slog.String("of", transition.GetState().GetName()), slog.Any("error", err))
	}
	t.note(key, hook.GetName()+": "+oneLine(answer))
}

// ask runs a hook and returns what it answers.
func (t *Teller) ask(hook *configv1.Hook, transition *controlv1.Transition) (string, error) {
	select {
	case t.running <- struct{}{}:
		defer func() { <-t.running }()
	default:
		return "", fmt.Errorf("not told: %d hooks are under way already", maxRunning)
	}
	ctx, cancel := context.WithTimeout(t.ctx, cmp.Or(hook.GetTimeout().AsDuration(), defaultTimeout))
	defer cancel()
	var (
		answer string
		err    error
	)
	if service := hook.GetService(); service != "" {
		answer, err = "ok", t.call(ctx, service, transition)
	} else {
		answer, err = t.run(ctx, hook.GetCommand(), transition)
	}
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("it took longer than %v", cmp.Or(hook.GetTimeout().AsDuration(), defaultTimeout))
	}
	return answer, err
}

// call tells a service of the mesh.
func (t *Teller) call(ctx context.Context, service string, transition *controlv1.Transition) error {
	if t.o.Dial == nil {
		return errors.New("this sidecar cannot call services of the mesh: it has no outbound")
	}
	conn, release, err := t.o.Dial(ctx, service)
	if err != nil {
		return err
	}
	defer release()
	_, err = meshv1.NewHooksClient(conn).Transition(ctx, &meshv1.TransitionRequest{Transition: transition})
	if s, ok := status.FromError(err); ok && err != nil {
		return fmt.Errorf("%v: %s", s.Code(), s.Message())
	}
	return err
}

// run runs one of the bootstrap's commands.
func (t *Teller) run(ctx context.Context, name string, transition *controlv1.Transition) (string, error) {
	for _, c := range t.o.Commands {
		if c.GetName() != name {
			continue
		}
		input, err := protojson.Marshal(transition)
		if err != nil {
			return "", err
		}
		var line bytes.Buffer
		if err := json.Compact(&line, input); err != nil { // protojson varies its blanks on purpose
			return "", err
		}
		line.WriteByte('\n')
		return command(ctx, c.GetRun(), line.Bytes())
	}
	return "", fmt.Errorf("control.commands of this sidecar's bootstrap has no %q", name)
}

// note writes an answer into the history.
func (t *Teller) note(key, answer string) {
	t.noting.Lock()
	defer t.noting.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), noteTimeout)
	defer cancel()
	var err error
	for range noteTries {
		if err = t.noteOnce(ctx, key, answer); err == nil || errors.Is(err, kv.ErrNotFound) {
			return
		}
		if t.ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(noteTimeout / noteTries / 2):
		case <-t.ctx.Done():
		}
	}
	t.o.Logger.Warn("what a hook answered is missing in the history", slog.String("answer", answer), slog.Any("error", err))
}

func (t *Teller) noteOnce(ctx context.Context, key, answer string) error {
	entry, err := t.o.Store.Get(ctx, key)
	if err != nil {
		return err
	}
	var transition controlv1.Transition
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(entry.Value, &transition); err != nil {
		return err
	}
	transition.Hooks = append(transition.Hooks, answer)
	value, err := protojson.Marshal(&transition)
	if err != nil {
		return err
	}
	return t.o.Store.Commit(ctx, kv.Op{Key: key, Value: value, Version: entry.Version})
}

// oneLine makes a line of what a hook said, without what a terminal would obey.
func oneLine(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	for len(s) > maxAnswer {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return cmp.Or(s, "ok")
}
