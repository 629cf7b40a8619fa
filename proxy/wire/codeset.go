package wire

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
)

// CodeSet is a set of statuses.
type CodeSet uint32

// CodesOf returns the set of these statuses. Those that gRPC does not define count
// as UNKNOWN.
func CodesOf(list ...codes.Code) (set CodeSet) {
	for _, c := range list {
		set |= 1 << known(c)
	}
	return set
}

// ParseCodes returns the set of the statuses of these names, as StatusName writes
// them.
func ParseCodes(names []string) (CodeSet, error) {
	var set CodeSet
	for _, name := range names {
		c, err := ParseCode(name)
		if err != nil {
			return 0, err
		}
		set |= 1 << c
	}
	return set, nil
}

// ParseCode returns the status of a name, as StatusName writes it.
func ParseCode(name string) (codes.Code, error) {
	for c, known := range statusNames {
		if known == name {
			return codes.Code(c), nil
		}
	}
	return 0, fmt.Errorf("status %q: there is no such status: use one of %s", name, strings.Join(statusNames[:], ", "))
}

// Has says whether a status is in the set.
func (s CodeSet) Has(c codes.Code) bool { return s&(1<<known(c)) != 0 }

// String names the statuses in the set, in their order.
func (s CodeSet) String() string {
	var names []string
	for c, name := range statusNames {
		if s&(1<<c) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

func known(c codes.Code) codes.Code {
	if int64(c) >= int64(len(statusNames)) {
		return codes.Unknown
	}
	return c
}
