package policy

import (
	"fmt"
	"strings"
)

// Look says which of the limits an RPC counts in, and by which key. Nothing is taken.
// They are numbered from 1 on.
func (r *RateLimit) Look(rpc *RPC) []LimitLook {
	if r == nil {
		return nil
	}
	var looks []LimitLook
	for i := range r.limits {
		l := &r.limits[i]
		if failed, _ := l.match.failing(rpc); failed != partNone || l.match.part() == 0 {
			continue
		}
		look := LimitLook{Number: i + 1, Share: float64(l.match.part()) / shares}
		if l.key != nil {
			key, found := l.key.Key(rpc)
			look.By, look.Key, look.Keyed = l.key.String(), strings.Clone(key), found
		}
		looks = append(looks, look)
	}
	return looks
}

// LimitLook is a limit that an RPC counts in.
type LimitLook struct {
	// Number is the limit's in its policy, from 1 on.
	Number int
	// Share is how many such RPCs count in it, from 0 to 1.
	Share float64
	// By is what each bucket is for, "" where all RPCs share one; Key is the RPC's, if
	// it is Keyed: those that have none share one.
	By, Key string
	Keyed   bool
}

// Look says in words what may be done to an RPC; "" for nothing.
func (f *Fault) Look(rpc *RPC) string {
	if f == nil {
		return ""
	}
	if failed, _ := f.match.failing(rpc); failed != partNone || f.match.part() == 0 {
		return ""
	}
	says := f.Describe(rpc.Fields)
	if part := f.match.part(); part < shares && says != "" {
		says = fmt.Sprintf("%s, of %s of such RPCs", says, Percent(float64(part)/shares))
	}
	return says
}
