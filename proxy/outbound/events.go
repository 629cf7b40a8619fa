package outbound

// SubsetEvents returns how often instances of a subset of a service were ejected as
// outliers or had their circuit breakers open, and how many instances the subset has. It
// is false where no RPC goes to the service, or there is no such subset.
func (p *Proxy) SubsetEvents(service, subset string) (ejections uint64, instances int, ok bool) {
	c := p.router.Cluster(service)
	if c == nil {
		return 0, 0, false
	}
	return c.Events(subset)
}
