package relay

// offer has one of many RPCs remembered, whose service is known now. Each memory of an RPC
// counts on its own, so that nothing is shared by those that are not. r.mu is held.
func (r *RPC) offer(service string) {
	if r.untilRecorded--; r.untilRecorded == 0 {
		r.record(service)
	}
}

func (r *RPC) record(service string) {
	ring := r.p.cfg.Recording
	if service == "" && ring != nil {
		r.untilRecorded = 1 // it goes nowhere: the next one is remembered in its stead
		return
	}
	caller := r.p.cfg.Caller
	if c := r.caller(); c != nil {
		caller = c.name
	}
	ring.Add(r.start, service, r.path, caller, r.block.Fields)
	r.untilRecorded = ring.Gap(r.p.cfg.Random)
}
