package access

// Hopeless returns who refuses every RPC of the caller, whatever its method and metadata;
// "": some may be let through.
func (c *Caller) Hopeless() string {
	if i := c.intention; i != nil && !i.mayAllow() {
		return i.refused.by
	}
	p := c.policy
	allows := false
	for _, x := range c.indexes {
		if x == nil {
			continue
		}
		if n := x.all.first[denyEnforced]; n != none {
			return p.rules[n].refused.by
		}
		allows = allows || x.allows
	}
	if byDefault := p.defaults[allowEnforced/2]; byDefault != nil && !allows {
		return byDefault.by
	}
	return ""
}

// mayAllow says whether there are requests that it allows.
func (i *intention) mayAllow() bool {
	if i.byDefault {
		return true
	}
	if i.permissions == nil {
		return false
	}
	for _, one := range i.permissions.list {
		if one.allow && !one.never {
			return true
		}
	}
	return false
}
