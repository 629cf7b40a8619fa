package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Parts of a run, as -parts takes them.
const (
	partUnary     = "unary"
	partStreaming = "streaming"
	partBulk      = "bulk"
	partScale     = "scale"
	partBig       = "big"
	partAbuse     = "abuse"
	partPolicies  = "policies"
	partMTLS      = "mtls"
)

// allParts are the parts in the order of a run.
func allParts() []string {
	return []string{partUnary, partStreaming, partBulk, partBig, partAbuse, partScale, partPolicies, partMTLS}
}

// options are what the command line says.
type options struct {
	rounds int
	// requests is how many each run sends; 0 is as many as take runTime.
	requests int
	runTime  time.Duration
	shapes   []shape
	settings []string
	parts    []string
	peers    []string
	quick    bool
	// out is the file to write the tables into; "" is none.
	out string
	// vs is another Pillion to compare with; "" is none.
	vs string
	// attacks says which attacks are measured, by their names; nil is all.
	attacks *regexp.Regexp
	// control has each attack measured at another Pillion too.
	control bool
	// profile is how the names of CPU profiles begin; "" takes none.
	profile string
	// given is the command line without what names this machine's paths.
	given []string
}

const (
	defaultOut = "../docs/benchmarks.md"
	// A smoke test shows that everything works; its figures mean nothing.
	quickRequests = 2000
	quickTime     = 300 * time.Millisecond
)

// parseOptions reads the command line.
func parseOptions(args []string, usage io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(usage)
	fs.IntVar(&o.rounds, "rounds", 5, "`rounds` in which everything is measured once, in turns")
	fs.IntVar(&o.requests, "n", 0, "unary `requests` per run (default: as many as take -time)")
	fs.DurationVar(&o.runTime, "time", 3*time.Second, "how `long` a run should take")
	shapes := fs.String("shapes", "8x32,64x8,16x1", "loads, as CONNECTIONSxSTREAMS")
	settings := fs.String("settings", strings.Join(settingNames(), ","), "one: one worker, alone on a core; two: two workers, beside the load")
	parts := fs.String("parts", strings.Join(allParts(), ","), "what to measure")
	peers := fs.String("peers", strings.Join([]string{pillionName, haproxyName, nginxName, envoyName, grpcgoName, tcpName}, ","), "whom to measure")
	fs.BoolVar(&o.quick, "quick", false, "a smoke test: one round of short runs, whose figures mean nothing; writes no file unless -out is given")
	fs.StringVar(&o.out, "out", defaultOut, "`file` to write the tables into, between its markers; empty for none")
	fs.StringVar(&o.vs, "vs", "", "compare PILLION_BIN with another `pillion` instead of with the peers; writes no file unless -out is given")
	attacks := fs.String("attacks", "", "measure only attacks whose names match this regular `expression`")
	fs.BoolVar(&o.control, "control", false, "measure each attack while another Pillion is attacked, too: what it costs the machine")
	fs.StringVar(&o.profile, "profile", "", "after the rounds, take CPU profiles of Pillion under each load, into files whose names begin with `prefix`")
	if err := fs.Parse(args); err != nil {
		return options{}, err
	}
	set := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if o.quick {
		o.quicken(set)
	}
	if o.vs != "" {
		*peers = pillionName + "," + otherName
	}
	if (o.quick || o.vs != "") && !set["out"] {
		o.out = ""
	}
	fs.Visit(func(f *flag.Flag) {
		if f.Name != "out" && f.Name != "profile" && f.Name != "vs" {
			o.given = append(o.given, "-"+f.Name+"="+f.Value.String())
		}
	})

	var errs [5]error
	o.shapes, errs[0] = parseShapes(*shapes)
	o.settings, errs[1] = choose("settings", *settings, settingNames())
	o.parts, errs[2] = choose("parts", *parts, allParts())
	o.peers, errs[3] = choose("peers", *peers, []string{pillionName, haproxyName, nginxName, envoyName, grpcgoName, tcpName, otherName})
	o.attacks, errs[4] = regexp.Compile(*attacks)
	if err := errors.Join(errs[:]...); err != nil {
		return options{}, err
	}
	return o, o.check(fs.Args())
}

var (
	errRounds = errors.New("-rounds: at least 1 is needed")
	errTime   = errors.New("-time: more than nothing is needed")
	errN      = errors.New("-n: a number of requests is needed, or 0 for as many as take -time")
	errOther  = errors.New("-peers: other is the Pillion that -vs names")
)

func (o *options) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unknown argument %q: everything is said by flags (see -help)", rest[0])
	case o.rounds < 1:
		return errRounds
	case o.runTime <= 0:
		return errTime
	case o.requests < 0:
		return errN
	case o.vs == "" && slices.Contains(o.peers, otherName):
		return errOther
	}
	return nil
}

func (o *options) has(part string) bool { return slices.Contains(o.parts, part) }

// besidePeers says whether anything is measured for which the peers run.
func (o *options) besidePeers() bool {
	return o.has(partUnary) || o.has(partStreaming) || o.has(partBulk)
}

func parseShapes(list string) ([]shape, error) {
	var shapes []shape
	for text := range strings.SplitSeq(list, ",") {
		s, err := parseShape(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("-shapes: %w", err)
		}
		shapes = append(shapes, s)
	}
	return shapes, nil
}

func (o *options) quicken(set map[string]bool) {
	if !set["rounds"] {
		o.rounds = 1
	}
	if !set["n"] {
		o.requests = quickRequests
	}
	if !set["time"] {
		o.runTime = quickTime
	}
}

// choose splits a list and refuses what is not among the allowed.
func choose(flagName, list string, allowed []string) ([]string, error) {
	var chosen []string
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		if !slices.Contains(allowed, name) {
			return nil, fmt.Errorf("-%s: %q is none of %s", flagName, name, strings.Join(allowed, ", "))
		}
		if !slices.Contains(chosen, name) {
			chosen = append(chosen, name)
		}
	}
	return chosen, nil
}
