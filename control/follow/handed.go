package follow

import (
	"encoding/json"
	"fmt"
	"maps"
)

// maxHanded bounds what is handed over of all services together, in bytes. What does not
// fit the other process asks the store for.
const maxHanded = 64 << 20

// Handed is what a process knows of the documents of services, for one that replaces it.
// It goes from one to the other as JSON.
type Handed struct {
	// Store is where the documents are, as kv.Store describes it: those of another are
	// of no use.
	Store string `json:"store"`
	// Services are what holds of each service, in the form that a Cache keeps it in.
	Services map[string]json.RawMessage `json:"services,omitempty"`
	// Older are the same of services that the process did not follow itself: it had them
	// from the one before it.
	Older map[string]json.RawMessage `json:"older,omitempty"`
}

// HandOver returns what holds of the services that are followed, as far as it is known.
func (f *Follower) HandOver() *Handed {
	h := &Handed{Store: f.o.Store.Describe(), Services: map[string]json.RawMessage{}, Older: map[string]json.RawMessage{}}
	f.mu.Lock()
	services := f.sorted()
	if f.o.Handed != nil && f.o.Handed.Store == h.Store {
		maps.Copy(h.Older, f.o.Handed.Older)
		maps.Copy(h.Older, f.o.Handed.Services)
	}
	f.mu.Unlock()
	room := maxHanded
	for service, content := range h.Older {
		if room -= len(content); room < maxHanded/2 {
			delete(h.Older, service)
			room += len(content)
		}
	}
	for _, s := range services {
		k := s.known()
		if k == nil {
			continue
		}
		content, err := encode(s.name, k)
		if err == nil && len(content) > room {
			err = fmt.Errorf("it takes %d bytes, more than the %d that are left", len(content), room)
		}
		if err != nil {
			f.o.Logger.Warn("what the store says of a service cannot be handed over to the new process, which will have to ask for it", "service", s.name, "err", err)
			continue
		}
		room -= len(content)
		h.Services[s.name] = content
	}
	return h
}

// handed takes out what was handed over of a service, and says whether it held until now;
// nil: nothing was, or it is of no use. f.mu is held, or nobody else knows f.
func (f *Follower) handed(service string) (of *restored, untilNow bool) {
	h := f.o.Handed
	if h == nil || h.Store != f.o.Store.Describe() {
		return nil, false
	}
	content, untilNow := h.Services[service]
	if !untilNow {
		content = h.Older[service]
	}
	// They are older than all that is learned from now on.
	delete(h.Services, service)
	delete(h.Older, service)
	if content == nil {
		return nil, false
	}
	of, err := decodeKept(service, content)
	if err != nil {
		f.o.Logger.Warn("what was handed over of a service cannot be read, and is not obeyed", "service", service, "err", err)
		return nil, false
	}
	return of, untilNow
}
