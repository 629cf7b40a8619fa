package access

// Looks says whether what is decided of the caller's RPCs to the method at a path may
// depend on their fields. Where it does not, [Caller.Decide] may do without them.
func (c *Caller) Looks(path string) bool {
	if c.intention != nil && c.intention.permissions != nil && c.intention.permissions.look {
		return true
	}
	if !c.policy.look {
		return false
	}
	odd := odd(path)
	for _, x := range c.indexes {
		if cell := x.find(path, odd); cell != nil && (cell.any[denyEnforced] || cell.any[allowEnforced]) {
			return true
		}
	}
	return false
}
