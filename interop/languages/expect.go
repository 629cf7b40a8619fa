package languages

import (
	"slices"

	"google.golang.org/grpc/codes"
)

// Cases are what every client tries with every server, in this order.
var Cases = []string{
	"unary", "client_streaming", "server_streaming", "bidi_streaming",
	"metadata", "status", "early_status",
	"deadline_expires", "deadline_arrives", "cancel",
	"large", "too_large_request", "too_large_answer",
	"gzip", "health", "reflection",
}

// codesOf are the statuses with which a case may end for this pair of languages,
// with Pillion in the way or not.
func codesOf(name, client, server string, proxied bool) []codes.Code {
	switch name {
	case "status":
		return []codes.Code{codes.FailedPrecondition}
	case "early_status":
		return []codes.Code{codes.Aborted}
	case "deadline_expires":
		// Tonic's own timers call it Canceled, and whoever is first has the word; and
		// grpc-js takes the reset of a server whose timer was first for that. Pillion
		// is before all servers.
		if client == "rust" || !proxied && (client == "node" || server == "rust") {
			return []codes.Code{codes.DeadlineExceeded, codes.Canceled}
		}

		return []codes.Code{codes.DeadlineExceeded}
	case "cancel":
		return []codes.Code{codes.Canceled}
	case "too_large_request":
		return tooLarge(server)
	case "too_large_answer":
		return tooLarge(client)
	default:
		return []codes.Code{codes.OK}
	}
}

func tooLarge(receiver string) []codes.Code {
	if receiver == "rust" {
		return []codes.Code{codes.OutOfRange} // as tonic has it
	}

	return []codes.Code{codes.ResourceExhausted}
}

// failsDirectly says why a case does not work for this pair without Pillion.
// Nothing is expected of these then.
func failsDirectly(name, client, server string) string {
	if name == "reflection" && server == "python" && client != "python" {
		return "grpcio-reflection answers the older version of reflection only; Pillion answers both"
	}

	return ""
}

// compresses are the servers that can compress an answer. Those of grpc-js
// understand what is compressed, but do not compress.
func compresses(server string) bool { return server != "node" }

// thorough says whether what is seen on the wire is looked at for this pair: each
// language with itself, and with Go.
func thorough(client, server string) bool {
	return client == server || slices.Contains([]string{client, server}, "go")
}
