package consul

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// lookEvery is how often the registration is looked at where nothing
	// happens. A change of the app's own registration is seen at once.
	lookEvery = 10 * time.Second
	// askEvery is how often the app is asked for its gRPC services, askSoon the
	// same until it first answers, askTimeout the bound on each.
	askEvery   = 30 * time.Second
	askSoon    = 2 * time.Second
	askTimeout = 2 * time.Second
	// registerPause is the least time between two registrations.
	registerPause = time.Second
	// closeTimeout bounds the deregistration where the context does not.
	closeTimeout = 5 * time.Second
)

// Registrar keeps the local app, and the sidecar beside it, registered at the
// agent: it looks again and again, and registers anew where the agent has
// forgotten, or where something is not as it should be. It touches nothing but
// these two registrations and their checks.
type Registrar struct {
	agent *agent
	plan  *plan
	// first is closed after the first registration.
	first chan struct{}

	life   sync.Mutex // held while the work begins or ends
	stage  stage
	closed error // what Close returned
	stop   context.CancelFunc
	done   chan struct{} // closed when the work has ended

	mu        sync.Mutex
	status    RegistrationStatus
	attempted bool // it may stand at the agent

	// What follows belongs to the goroutine.

	names   []string // of gRPC services
	asked   time.Time
	learned bool // AskGRPC has answered
	token   string
}

// stage of a Registrar's life.
type stage int

const (
	keeping stage = iota // until Release or Close
	ended                // for good
)

// RegistrationStatus is how a registration fares, for people and for metrics.
type RegistrationStatus struct {
	// Name and ID of the service.
	Name, ID string
	// Registered says that the agent has it, as far as is known.
	Registered bool
	// Times counts the registrations; more than 1 means that the agent forgot,
	// or that something changed.
	Times int
	// GRPC are the gRPC services that the registration says the app answers.
	GRPC []string
	// Error is why it is not registered, in one line; empty where it is.
	Error string
}

// Register registers an app and keeps it registered until Close. It returns at
// once: an error is about the registration, not about Consul.
func (s *Source) Register(registration Registration) (*Registrar, error) {
	plan, err := registration.plan()
	if err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}

	r := &Registrar{
		agent: s.agent, plan: plan, first: make(chan struct{}),
		status: RegistrationStatus{Name: plan.Name, ID: plan.ID},
		names:  slices.Sorted(slices.Values(registration.GRPC)),
		// By the other process.
		attempted: registration.After != nil,
		done:      make(chan struct{}),
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() {
		defer close(r.done)
		if registration.After != nil {
			select {
			case <-registration.After:
			case <-ctx.Done():
				return
			}
		}
		r.run(ctx)
	}()

	return r, nil
}

// Registered is closed when the agent has accepted the registration for the
// first time.
func (r *Registrar) Registered() <-chan struct{} { return r.first }

// Status returns how the registration fares.
func (r *Registrar) Status() RegistrationStatus {
	r.mu.Lock()
	defer r.mu.Unlock()

	status := r.status
	status.GRPC = slices.Clone(status.GRPC)

	return status
}

// Close ends the registration: the app's first, so that nobody sees it without
// its sidecar, then the sidecar's. It takes 5 s at most, and less where ctx ends
// before. After an error the agent forgets by itself what stays critical, where
// Check.DeregisterAfter is set. Close may be called again; it returns the same.
func (r *Registrar) Close(ctx context.Context) error {
	r.life.Lock()
	defer r.life.Unlock()

	if r.stage == keeping {
		r.stage = ended
		r.stop()
		<-r.done
		r.closed = r.deregister(ctx)
	}

	return r.closed
}

// Release ends the work and leaves the registration as it stands: another process
// goes on with it, by the same id. Nothing is under way when it returns, and Close does
// nothing then.
func (r *Registrar) Release() {
	r.life.Lock()
	defer r.life.Unlock()

	if r.stage == keeping {
		r.stage = ended
		r.stop()
		<-r.done
		r.agent.troubles.forget(r.scope())
	}
}

func (r *Registrar) scope() string { return "registration of " + r.plan.ID }

func (r *Registrar) run(ctx context.Context) {
	pause := backoff{base: 2 * failureBase, most: failureMost, random: r.agent.random}
	var hash string // of the app's registration, read before the last look
	for ctx.Err() == nil {
		r.ask(ctx)
		if hash == "" && r.registered() { // the agent logs an error where it is not
			hash = r.hash(ctx, "", 0)
		}
		fresh, err := r.reconcile(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.failed(err)
			hash = ""
			_ = sleep(ctx, pause.next())
		case fresh:
			pause.reset()
			r.succeeded()
			hash = ""
			_ = sleep(ctx, registerPause)
		default:
			pause.reset()
			r.succeeded()
			if hash == "" {
				_ = sleep(ctx, failureBase)

				continue
			}
			hash = r.await(ctx, hash)
		}
	}
}

func (r *Registrar) failed(err *failure) {
	r.agent.note(r.scope(), err)

	r.mu.Lock()
	defer r.mu.Unlock()

	r.status.Error = err.Error()
	// An agent that does not answer most likely has it still.
	if err.kind == denied || err.kind == rejected {
		r.status.Registered = false
	}
}

func (r *Registrar) succeeded() {
	r.agent.noteSuccess(r.scope())

	r.mu.Lock()
	defer r.mu.Unlock()

	r.status.Registered, r.status.Error = true, ""
	select {
	case <-r.first:
	default:
		close(r.first)
	}
}

// ask finds out which gRPC services the app answers, where it is time to.
func (r *Registrar) ask(ctx context.Context) {
	if r.plan.AskGRPC == nil {
		return
	}
	every := askEvery
	if !r.learned {
		every = askSoon
	}
	if !r.asked.IsZero() && time.Since(r.asked) < every {
		return
	}

	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	names, err := r.plan.AskGRPC(ctx)
	r.asked = time.Now()
	if err != nil {
		return // the app may not be up yet, or has no reflection
	}
	r.names, r.learned = slices.Sorted(slices.Values(names)), true
}

// reconcile makes the agent's view what it should be. fresh says that something
// was registered.
func (r *Registrar) reconcile(ctx context.Context) (fresh bool, failed *failure) {
	ctx, cancel := context.WithTimeout(ctx, 2*r.agent.limits.CallTimeout)
	defer cancel()

	have, checks, failed := r.view(ctx, r.plan.ids())
	if failed != nil {
		return false, failed
	}
	r.believe(have[r.plan.ID])
	grpc, left := joinGRPC(r.names)
	if scope := r.scope() + " grpc"; left > 0 {
		r.agent.troubles.report(scope, fmt.Errorf("consul: service %s: %d of its gRPC services are not registered: Consul's meta has no room for them; name those that matter in service.grpc", r.plan.Name, left))
	} else {
		r.agent.troubles.clear(scope)
	}
	wanted := r.plan.registrations(grpc)

	// The agent goes on using the token of the last registration, for its own
	// synchronisation with the servers. A rotated one has to be told.
	token := r.agent.tokens.current()
	force := !r.registered() || token != r.token
	for _, want := range wanted {
		reason := differs(want, have[want.ID], checks)
		if reason == nil && !force {
			continue
		}
		if failed := r.register(ctx, want, checks); failed != nil {
			return fresh, failed
		}
		if !force {
			r.agent.log.Info("consul: registered again: "+reason.Error(), "service", want.Name, "id", want.ID)
		}
		fresh = true
	}
	r.token = token

	r.mu.Lock()
	defer r.mu.Unlock()
	if fresh {
		r.status.Times++
	}
	r.status.GRPC = slices.Clone(r.names)

	return fresh, nil
}

func (r *Registrar) registered() bool {
	r.mu.Lock()
	defer r.mu.Unlock()

	return r.status.Registered
}

// believe takes over the gRPC services that stand at the agent from before, as
// long as the app has not said which they are: a sidecar that is started beside an
// app that is slow to answer must not take them from the registration.
func (r *Registrar) believe(before *api.AgentService) {
	if r.plan.AskGRPC == nil || r.learned || len(r.names) > 0 || before == nil {
		return
	}
	r.names = splitGRPC(nil, before.Meta)
}

// view is what the agent has of the registrations with these ids, and of their
// checks.
func (r *Registrar) view(ctx context.Context, ids []string) (map[string]*api.AgentService, map[string]*api.AgentCheck, *failure) {
	var services, checks []string
	for _, id := range ids {
		services = append(services, fmt.Sprintf("ID == %q", id))
		checks = append(checks, fmt.Sprintf("ServiceID == %q", id))
	}
	options := (&api.QueryOptions{}).WithContext(ctx)

	have, err := r.agent.api.Agent().ServicesWithFilterOpts(strings.Join(services, " or "), options)
	if err != nil {
		return nil, nil, r.explain(err)
	}
	found, err := r.agent.api.Agent().ChecksWithFilterOpts(strings.Join(checks, " or "), options)
	if err != nil {
		return nil, nil, r.explain(err)
	}

	return have, found, nil
}

// register registers one service. Checks of it that are not ours any more go
// with that, but not while an operator has put it into maintenance: that is a
// check too.
func (r *Registrar) register(ctx context.Context, want *api.AgentServiceRegistration, checks map[string]*api.AgentCheck) *failure {
	maintained := checks[api.ServiceMaintPrefix+want.ID] != nil

	r.mu.Lock()
	r.attempted = true
	r.mu.Unlock()

	options := api.ServiceRegisterOpts{ReplaceExistingChecks: !maintained}.WithContext(ctx)
	if err := r.agent.api.Agent().ServiceRegisterOpts(want, options); err != nil {
		return r.explain(err)
	}

	return nil
}

func (r *Registrar) explain(err error) *failure {
	rules := []string{rule("service", r.plan.Name, "write")}
	if r.plan.Sidecar != nil {
		rules = append(rules, rule("service", r.plan.Name+sidecarSuffix, "write"))
	}

	return r.agent.explain(err, "register service "+r.plan.Name, rules...)
}

// lookAgain is when to look again where nothing happens.
func (r *Registrar) lookAgain() time.Duration {
	if r.plan.AskGRPC != nil && !r.learned {
		return askSoon
	}

	return lookEvery
}

// await returns when the agent's registration of the app changes, when it is time
// to look again, or when the token was rotated: as long as the agent has not been
// told, it fails to report health with one that may be gone, and does not try
// again for a minute or two. It returns the hash that is known then.
func (r *Registrar) await(ctx context.Context, known string) string {
	look := time.Now().Add(r.lookAgain())
	for {
		wait := time.Until(look)
		if r.agent.tokens.file != "" {
			wait = min(wait, tokenLook)
		}
		hash := r.hash(ctx, known, wait)
		if hash != known || ctx.Err() != nil || r.agent.tokens.current() != r.token || !time.Now().Before(look) {
			return hash
		}
	}
}

// hash is the agent's hash of the app's registration. It is returned as soon as
// it is not known, or when wait is over; empty where the app is gone, or the
// agent is: the next look finds out.
func (r *Registrar) hash(ctx context.Context, known string, wait time.Duration) string {
	ctx, cancel := context.WithTimeout(ctx, wait+r.agent.limits.CallTimeout)
	defer cancel()

	options := &api.QueryOptions{WaitHash: known, WaitTime: wait}
	service, meta, err := r.agent.api.Agent().Service(r.plan.ID, options.WithContext(ctx))
	switch {
	case err != nil || service == nil:
		return ""
	case meta.LastContentHash != "":
		return meta.LastContentHash
	default:
		return service.ContentHash
	}
}

func (r *Registrar) deregister(ctx context.Context) error {
	r.mu.Lock()
	attempted := r.attempted
	r.status.Registered = false
	r.mu.Unlock()
	if !attempted {
		return nil
	}

	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	defer r.agent.troubles.forget(r.scope())

	for _, id := range r.plan.ids() {
		if err := r.deregisterOne(ctx, id); err != nil {
			return err
		}
	}

	return nil
}

// deregisterOne tries twice: the connection that it gets may have died with an
// agent that is back meanwhile.
func (r *Registrar) deregisterOne(ctx context.Context, id string) error {
	var last error
	for attempt := range 2 {
		if attempt > 0 && !sleep(ctx, failureBase) {
			break
		}
		err := r.agent.api.Agent().ServiceDeregisterOpts(id, (&api.QueryOptions{}).WithContext(ctx))
		if err == nil {
			return nil
		}
		failure := r.agent.explain(err, "deregister "+id, rule("service", r.plan.Name, "write"))
		if failure.kind == missing || strings.Contains(err.Error(), "Unknown service ID") {
			return nil
		}
		last = failure.last()
	}
	if last == nil {
		last = ctx.Err()
	}

	return fmt.Errorf("%s stays registered until the agent finds it critical for long enough: %w", id, last)
}
