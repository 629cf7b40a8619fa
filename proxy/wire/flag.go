package wire

// Flag says in a short code why Pillion ended an RPC. The codes are Envoy's
// response flags, which people know. It is what HeaderFlags, the access log
// and the metrics carry.
type Flag uint8

// The flags. NumFlags is how many there are, FlagNone included, so that a
// counter for each can stand in an array.
const (
	FlagNone                    Flag = iota // Pillion had no part in how the RPC ended
	FlagNoHealthyUpstream                   // UH: no instance may take the RPC
	FlagUpstreamConnectFailure              // UF: an instance could not be connected to
	FlagOverflow                            // UO: a circuit breaker is open
	FlagUpstreamTimeout                     // UT: an instance did not answer in time
	FlagUpstreamReset                       // UR: the instance reset the stream
	FlagUpstreamTermination                 // UC: the connection to the instance ended
	FlagRetryLimit                          // URX: no further attempt was allowed
	FlagNoRoute                             // NR: no service was found for the RPC
	FlagDownstreamDisconnect                // DC: the caller cancelled or went away
	FlagDeadline                            // DT: the RPC's deadline passed
	FlagDelayInjected                       // DI: a fault policy delayed the RPC
	FlagFaultInjected                       // FI: a fault policy failed the RPC
	FlagRateLimited                         // RL: a rate limit was reached
	FlagAccessDenied                        // UAEX: an access policy denied the RPC
	FlagDownstreamProtocolError             // DPE: the caller broke the protocol
	FlagUpstreamProtocolError               // UPE: the instance broke the protocol
	FlagOverload                            // OM: Pillion itself is overloaded

	NumFlags = iota
)

var flagCodes = [NumFlags]string{
	FlagNone:                    "",
	FlagNoHealthyUpstream:       "UH",
	FlagUpstreamConnectFailure:  "UF",
	FlagOverflow:                "UO",
	FlagUpstreamTimeout:         "UT",
	FlagUpstreamReset:           "UR",
	FlagUpstreamTermination:     "UC",
	FlagRetryLimit:              "URX",
	FlagNoRoute:                 "NR",
	FlagDownstreamDisconnect:    "DC",
	FlagDeadline:                "DT",
	FlagDelayInjected:           "DI",
	FlagFaultInjected:           "FI",
	FlagRateLimited:             "RL",
	FlagAccessDenied:            "UAEX",
	FlagDownstreamProtocolError: "DPE",
	FlagUpstreamProtocolError:   "UPE",
	FlagOverload:                "OM",
}

// String returns the flag's code, such as "UH". FlagNone has none: "".
func (f Flag) String() string {
	if int(f) >= len(flagCodes) {
		return ""
	}
	return flagCodes[f]
}

// ParseFlag reads a code as String writes it. A code that is not known, which
// may come from a newer Pillion, is FlagNone.
func ParseFlag(s string) Flag {
	for f, code := range flagCodes {
		if code == s {
			return Flag(f)
		}
	}
	return FlagNone
}
