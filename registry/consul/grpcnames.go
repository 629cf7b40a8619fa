package consul

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	// metaGRPC is the meta key under which an instance says which gRPC services
	// it answers, comma separated. It goes on in metaGRPC-2 and so on.
	metaGRPC = "grpc-services"
	// maxMetaValue is Consul's bound on a meta value, in characters.
	maxMetaValue = 512
	// maxMetaGRPC is how many keys the names may take: Consul allows 64 in all.
	maxMetaGRPC = 12
	// maxGRPCName bounds a full gRPC service name, in bytes.
	maxGRPCName = 255
)

// metaGRPCKey is the nth key, from 1.
func metaGRPCKey(n int) string {
	if n == 1 {
		return metaGRPC
	}

	return metaGRPC + "-" + strconv.Itoa(n)
}

// isMetaGRPC says whether a meta key is one of ours.
func isMetaGRPC(key string) bool {
	return key == metaGRPC || strings.HasPrefix(key, metaGRPC+"-")
}

// joinGRPC spreads names over meta values, in alphabetical order. What does not
// fit, or is no name, is left out and counted. Health checks and reflection are
// left out too: every service answers them, so they find none.
func joinGRPC(names []string) (meta map[string]string, left int) {
	meta = map[string]string{}
	names = slices.Compact(slices.Sorted(slices.Values(names)))

	var (
		n     = 1
		value strings.Builder
	)
	for _, name := range names {
		if strings.HasPrefix(name, "grpc.health.") || strings.HasPrefix(name, "grpc.reflection.") {
			continue
		}
		if !isGRPCName(name) || n > maxMetaGRPC {
			left++

			continue
		}
		if value.Len() > 0 && value.Len()+1+len(name) > maxMetaValue {
			meta[metaGRPCKey(n)] = value.String()
			value.Reset()
			if n++; n > maxMetaGRPC {
				left++

				continue
			}
		}
		if value.Len() > 0 {
			value.WriteByte(',')
		}
		value.WriteString(name)
	}
	if value.Len() > 0 {
		meta[metaGRPCKey(n)] = value.String()
	}

	return meta, left
}

// splitGRPC adds the names that a registration's meta holds to names.
func splitGRPC(names []string, meta map[string]string) []string {
	for n := 1; n <= maxMetaGRPC; n++ {
		for name := range strings.SplitSeq(meta[metaGRPCKey(n)], ",") {
			if name = strings.TrimSpace(name); isGRPCName(name) {
				names = append(names, name)
			}
		}
	}

	return names
}

// isGRPCName says whether a name can be that of a gRPC service:
// "helloworld.Greeter". Nothing in such a name means anything in a filter
// expression or in a regular expression, apart from the dot.
func isGRPCName(name string) bool {
	if name == "" || len(name) > maxGRPCName {
		return false
	}
	start := true
	for _, c := range []byte(name) {
		switch {
		case c == '.' && !start:
			start = true
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_', '0' <= c && c <= '9' && !start:
			start = false
		default:
			return false
		}
	}

	return !start
}

// answeringFilter selects the apps that say they answer a gRPC service name, by
// whole entries. The contains comes first because Consul takes a meta key that
// is not there as matching any expression.
func answeringFilter(grpcService string) string {
	expression := "(^|,) *" + strings.ReplaceAll(grpcService, ".", "[.]") + " *(,|$)"

	var filter strings.Builder
	filter.WriteString(`ServiceKind == "" and (`)
	for n := 1; n <= maxMetaGRPC; n++ {
		if n > 1 {
			filter.WriteString(" or ")
		}
		fmt.Fprintf(&filter, `(ServiceMeta[%[1]q] contains %[2]q and ServiceMeta[%[1]q] matches %[3]q)`, metaGRPCKey(n), grpcService, expression)
	}
	filter.WriteString(")")

	return filter.String()
}
