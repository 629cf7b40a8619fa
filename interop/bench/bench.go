package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// participant is a peer that was found on this machine.
type participant struct {
	*peer
	bin string
	// release is the version that the program names; it may be empty.
	release string
}

// outcome is what a whole run found.
type outcome struct {
	opts         *options
	participants []participant
	skipped      []*peer
	results      results
	// incomplete is set where an error ended the run early.
	incomplete bool
	progress   io.Writer
}

// bench measures everything and shows it.
func bench(ctx context.Context, opts *options, out, progress io.Writer) error {
	dir, err := os.MkdirTemp("", "pillion-bench-")
	if err != nil {
		return fmt.Errorf("temporary folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	h2, err := findH2load(dir)
	if err != nil {
		return err
	}
	o := &outcome{opts: opts, results: results{}, progress: progress}
	if err := o.invite(self); err != nil {
		return err
	}
	if opts.out != "" {
		// A page that cannot be written is better known before the long run.
		if _, err := readPage(opts.out); err != nil {
			return err
		}
	}
	measured := o.measureAll(ctx, dir, self, h2)
	if measured != nil {
		// What was measured up to here is not lost, but is no result either.
		o.opts.out = ""
		o.incomplete = true
	}
	return errors.Join(measured, o.show(out))
}

// measureAll goes through the settings, one after the other.
func (o *outcome) measureAll(ctx context.Context, dir, self string, h2 *h2load) error {
	newRig := func(s setting) (*rig, error) {
		where, err := s.placement()
		if err != nil {
			return nil, err
		}
		r := &rig{
			opts: o.opts, setting: s, where: where, dir: filepath.Join(dir, s.name),
			self: self, load: h2, results: o.results, progress: o.progress, limits: usualLimits,
		}
		if err := os.MkdirAll(r.dir, 0o755); err != nil {
			return nil, fmt.Errorf("temporary folder: %w", err)
		}
		return r, r.writeBodies()
	}
	for _, s := range settings {
		if !o.opts.besidePeers() || !slices.Contains(o.opts.settings, s.name) {
			continue
		}
		r, err := newRig(s)
		if err != nil {
			return err
		}
		if err := r.measure(ctx, o.participants); err != nil {
			return err
		}
	}
	if o.opts.has(partBig) {
		r, err := newRig(bigSetting)
		if err != nil {
			return err
		}
		defer r.stop()
		if err := r.big(ctx, o.participants); err != nil {
			return err
		}
	}
	pillion, ok := o.participant(pillionName)
	if o.opts.vs != "" {
		return nil
	}
	type part struct {
		name    string
		setting setting
		measure func(*rig) error
	}
	var alone []part
	for _, name := range o.opts.settings {
		alone = append(alone, part{partAbuse, abuseSettings[name], func(r *rig) error { return r.abuse(ctx, pillion) }})
	}
	alone = append(alone, part{partScale, scaleSetting, func(r *rig) error { return r.scale(ctx, pillion.bin) }})
	for _, name := range o.opts.settings {
		alone = append(alone, part{partPolicies, policySettings[name], func(r *rig) error { return r.policies(ctx, o.participants) }})
	}
	for _, name := range o.opts.settings {
		alone = append(alone, part{partMTLS, mtlsSettings[name], func(r *rig) error { return r.mtls(ctx, o.participants) }})
	}
	for _, part := range alone {
		if !o.opts.has(part.name) || !ok && part.name != partMTLS {
			continue
		}
		r, err := newRig(part.setting)
		if err != nil {
			return err
		}
		err = part.measure(r)
		r.stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// scaleSetting is the first setting under a name of its own.
var scaleSetting = setting{name: "scale", title: settings[0].title, workers: settings[0].workers, pinned: settings[0].pinned}

var errNobody = errors.New("nobody to measure")

// invite finds who can take part, and names those who cannot.
func (o *outcome) invite(self string) error {
	for _, p := range peers(self, o.opts.vs) {
		if !slices.Contains(o.opts.peers, p.name) && p.name != otherName {
			continue
		}
		bin, err := p.find()
		if err != nil && (p.name == otherName || p.name == pillionName && (o.opts.vs != "" || os.Getenv("PILLION_BIN") != "")) {
			return fmt.Errorf("%s: %w", p.title, err)
		}
		if err != nil {
			_, _ = fmt.Fprintf(o.progress, "%s is skipped, since it is not installed: %s\n", p.title, p.install)
			o.skipped = append(o.skipped, p)
			continue
		}
		o.participants = append(o.participants, participant{p, bin, p.versionOf(bin)})
	}
	if len(o.participants) == 0 {
		return errNobody
	}
	return nil
}

func (o *outcome) participant(name string) (participant, bool) {
	i := slices.IndexFunc(o.participants, func(p participant) bool { return p.name == name })
	if i < 0 {
		return participant{}, false
	}
	return o.participants[i], true
}

// measure starts all who take part, and takes all figures of one setting.
func (r *rig) measure(ctx context.Context, all []participant) error {
	defer r.stop()
	if err := r.start(ctx); err != nil {
		return err
	}
	for _, p := range all {
		c, err := r.join(ctx, p.name, p.bin, p.launch)
		if err != nil {
			return err
		}
		if p.name != pillionName && p.name != otherName {
			c.forgiven = forgivenRuns
		}
	}
	if err := r.measureMemory(); err != nil {
		return err
	}
	for _, part := range []struct {
		name  string
		round func(context.Context, int) error
		// peak is the scene that the part's peak of memory is recorded for.
		peak scene
	}{
		{partUnary, r.unaryRound, sceneMemory},
		{partStreaming, r.streamingRound, sceneStreaming},
		{partBulk, r.bulkRound, sceneBulkFull},
	} {
		if !r.opts.has(part.name) {
			continue
		}
		for round := range r.opts.rounds {
			r.sayf("%s: %s, round %d of %d", r.setting.title, part.name, round+1, r.opts.rounds)
			if err := part.round(ctx, round); err != nil {
				return err
			}
		}
		if err := r.measurePeak(part.peak); err != nil {
			return err
		}
	}
	if r.opts.profile == "" {
		return nil
	}
	for _, c := range r.contestants {
		if c.name == pillionName {
			return r.profiles(ctx, c)
		}
	}
	return nil
}
