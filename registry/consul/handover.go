package consul

import (
	"slices"

	"github.com/pillion-proxy/pillion/registry"
)

// set hands a state over to all watchers.
func (w *watched) set(service *registry.Service) {
	w.mu.Lock()
	defer w.mu.Unlock()

	w.known, w.current = true, service
	w.version++
	w.notify()
}

// notify wakes all watchers. w.mu is held.
func (w *watched) notify() {
	for tell := range w.tell {
		select {
		case tell <- struct{}{}:
		default: // it was told already, and has not looked yet
		}
	}
}

// subscribe returns a channel that is written to after each change, and what
// ends that.
func (w *watched) subscribe() (tell chan struct{}, cancel func()) {
	tell = make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()

	w.tell[tell] = struct{}{}
	if w.known {
		tell <- struct{}{}
	}

	return tell, func() {
		w.mu.Lock()
		defer w.mu.Unlock()

		delete(w.tell, tell)
		delete(w.told, tell)
	}
}

// tellOf notes that a watcher was told of a version.
func (w *watched) tellOf(tell chan struct{}, version int) {
	w.mu.Lock()
	defer w.mu.Unlock()

	w.told[tell] = version
	if w.awaiting > 0 {
		w.notify()
	}
}

// state is what was handed over last; version 0 is nothing.
func (w *watched) state() (service *registry.Service, version int) {
	w.mu.Lock()
	defer w.mu.Unlock()

	return w.current, w.version
}

// answers says whether the service says that it answers a gRPC service, by what
// is known.
func (w *watched) answers(grpcService string) bool {
	service, _ := w.state()

	return service != nil && slices.Contains(service.GRPC, grpcService)
}
