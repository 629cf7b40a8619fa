package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
)

// version hashes policies, in the order of their names, and the subsets that only kept
// ones name.
func version(set *Set) string {
	sorted := slices.SortedFunc(slices.Values(set.entries), func(a, b *entry) int { return strings.Compare(a.name(), b.name()) })
	sum := sha256.New()
	var text []byte
	for _, e := range sorted {
		// Field by field in the order of their numbers, and maps in the order of their
		// keys: the same policy comes out the same on all sidecars of one release.
		text, _ = proto.MarshalOptions{Deterministic: true}.MarshalAppend(text[:0], e.source)
		text = append(text, byte(len(text)), byte(len(text)>>8), byte(len(text)>>16), byte(len(text)>>24))
		_, _ = sum.Write(text)
	}
	for _, service := range slices.Sorted(maps.Keys(set.services)) {
		if kept := set.services[service].kept; kept != nil {
			_, _ = fmt.Fprintf(sum, "%q%#v", service, kept) // package fmt sorts maps by their keys
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}
