package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// show prints the tables, and writes them into the page where one is wanted.
func (o *outcome) show(w io.Writer) error {
	var b bytes.Buffer
	o.write(&b)
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	if o.opts.out == "" {
		return nil
	}
	page, err := readPage(o.opts.out)
	if err != nil {
		return err
	}
	return page.write(b.String())
}

// write makes the tables. They say nothing of when they were made.
func (o *outcome) write(w *bytes.Buffer) {
	fmt.Fprintf(w, "Taken with `%s` on %s.\n\n", strings.Join(append([]string{"go run ./bench"}, o.opts.given...), " "), machine())
	if o.opts.quick {
		fmt.Fprint(w, "A smoke test: these figures mean nothing.\n\n")
	}
	if o.incomplete {
		fmt.Fprint(w, "The run ended early; what is missing was not measured.\n\n")
	}
	for _, p := range o.skipped {
		fmt.Fprintf(w, "%s was not installed (%s).\n\n", p.title, p.install)
	}
	chosen := slices.DeleteFunc(slices.Clone(settings), func(s setting) bool { return !slices.Contains(o.opts.settings, s.name) })
	if _, ok := o.participant(pillionName); ok && o.opts.vs == "" {
		writeTargets(w, targets(o.results, chosen, o.opts))
	}
	for _, s := range chosen {
		if !o.opts.besidePeers() {
			break
		}
		fmt.Fprintf(w, "## %s\n\n", s.title)
		o.writeUnary(w, s)
		o.writeStreaming(w, s)
		o.writeBulk(w, s)
		o.writeMemory(w, s)
		o.writeFailures(w, s)
	}
	o.writeBig(w)
	o.writeAbuse(w)
	o.writeScale(w)
	o.writePolicies(w)
	o.writeMTLS(w)
}

func writeTargets(w *bytes.Buffer, all []target) {
	fmt.Fprint(w, "## Targets\n\nJudged by the ratios of medians.\n\n")
	t := table{head: []string{"what", "wanted", "found", ""}}
	for _, g := range all {
		t.row(g.what, g.wanted(), g.found(), g.verdict())
	}
	t.write(w)
}

// subject is whom the ratios are about: Pillion, else the first that was
// measured.
func (o *outcome) subject() participant { return o.participants[0] }

func (o *outcome) overIt() string { return o.subject().title + " ÷ it" }

func (p participant) label() string {
	if p.release == "" {
		return p.title
	}
	return p.title + " " + p.release
}

// ratioTo compares the subject with a participant.
func (o *outcome) ratioTo(p participant, setting string, s scene, m metric) string {
	if p.name == o.subject().name {
		return ""
	}
	r, ok := compare(o.results.of(setting, o.subject().name, s, m), o.results.of(setting, p.name, s, m))
	return r.text(ok, o.opts.vs != "")
}

// text shows the ratio of medians, then in parentheses the median of the
// rounds' ratios and, where asked for, their range.
func (r ratio) text(ok, withRange bool) string {
	switch {
	case !ok:
		return "-"
	case withRange:
		return fmt.Sprintf("%.3f (%.3f; %.3f to %.3f)", r.ofMedians, r.perRound, r.low, r.high)
	}
	digits := 2
	if r.ofMedians < 0.1 {
		digits = 3
	}
	return fmt.Sprintf("%.*f (%.*f)", digits, r.ofMedians, digits, r.perRound)
}

// figure shows the median of a series, divided by unit.
func figure(series []float64, unit float64, digits int) string {
	m := median(series)
	if math.IsNaN(m) {
		return "-"
	}
	return fmt.Sprintf("%.*f", digits, m/unit)
}

const (
	perMilli = 1e3 // microseconds in a millisecond
	kilo     = 1e3
)

func (o *outcome) writeUnary(w *bytes.Buffer, s setting) {
	if !o.opts.has(partUnary) {
		return
	}
	for _, shape := range o.opts.shapes {
		at := shape.scene()
		fmt.Fprintf(w, "### Unary, %s: %d connections, %d streams each\n\n", shape, shape.conns, shape.streams)
		over := o.overIt()
		t := table{head: []string{"", "CPU, µs per RPC", over, "1,000 RPC/s", over, "p50, ms", over, "p99, ms", over}}
		half := table{head: []string{"", "1,000 RPC/s", "p50, ms", "p99, ms"}}
		for _, p := range o.participants {
			of := func(m metric) []float64 { return o.results.of(s.name, p.name, at, m) }
			to := func(m metric) string { return o.ratioTo(p, s.name, at, m) }
			t.row(p.label(),
				figure(of(cpuPerRPC), 1, 2), to(cpuPerRPC),
				figure(of(rpcPerSecond), kilo, 1), to(rpcPerSecond),
				figure(of(sameP50), perMilli, 2), to(sameP50),
				figure(of(sameP99), perMilli, 2), to(sameP99))
			half.row(p.label(), figure(halved(of(rpcPerSecond)), kilo, 1), figure(of(ownP50), perMilli, 2), figure(of(ownP99), perMilli, 2))
		}
		t.write(w)
		rate := o.results.of(s.name, o.subject().name, at, sameRate)
		fmt.Fprintf(w, "The latencies above are all at the same rate, half of what the slowest reached (%s thousand RPC/s). At half of what each reached itself:\n\n", figure(rate, kilo, 1))
		half.write(w)
	}
}

func halved(series []float64) []float64 {
	half := make([]float64, len(series))
	for i, v := range series {
		half[i] = v / 2
	}
	return half
}

func (o *outcome) writeStreaming(w *bytes.Buffer, s setting) {
	if !o.opts.has(partStreaming) {
		return
	}
	fmt.Fprintf(w, "### Streaming: messages of 16 KiB to the client, %d connections, %d streams each\n\n", streamShape.conns, streamShape.streams)
	t := table{head: []string{"", "MB/s", o.overIt(), "CPU, s per GiB", o.overIt()}}
	for _, p := range o.participants {
		of := func(m metric) []float64 { return o.results.of(s.name, p.name, sceneStreaming, m) }
		to := func(m metric) string { return o.ratioTo(p, s.name, sceneStreaming, m) }
		t.row(p.label(),
			figure(of(bytesPerSecond), megabyte, 0), to(bytesPerSecond),
			figure(of(cpuPerGiB), 1, 2), to(cpuPerGiB))
	}
	t.write(w)
}

func (o *outcome) writeBulk(w *bytes.Buffer, s setting) {
	if !o.opts.has(partBulk) {
		return
	}
	for _, at := range []scene{sceneBulkPaced, sceneBulkFull} {
		fmt.Fprintf(w, "### Unary RPCs (%d per second) beside %d streams: %s\n\n", besideRate, bulkShape.conns*bulkShape.streams, at)
		t := table{head: []string{"", "unary p50, ms", o.overIt(), "unary p99, ms", o.overIt(), "bulk, MB/s", o.overIt()}}
		for _, p := range o.participants {
			of := func(m metric) []float64 { return o.results.of(s.name, p.name, at, m) }
			to := func(m metric) string { return o.ratioTo(p, s.name, at, m) }
			t.row(p.label(),
				figure(of(sameP50), perMilli, 2), to(sameP50),
				figure(of(sameP99), perMilli, 2), to(sameP99),
				figure(of(bytesPerSecond), megabyte, 0), to(bytesPerSecond))
		}
		t.write(w)
	}
}

func (o *outcome) writeMemory(w *bytes.Buffer, s setting) {
	fmt.Fprint(w, "### Resident memory, MB\n\n")
	t := table{head: []string{"", "idle", o.overIt(), "peak, unary", o.overIt(), "peak, streaming", "peak, bulk"}}
	for _, p := range o.participants {
		of := func(at scene, m metric) string { return figure(o.results.of(s.name, p.name, at, m), megabyte, 1) }
		t.row(p.label(),
			of(sceneMemory, idleRSS), o.ratioTo(p, s.name, sceneMemory, idleRSS),
			of(sceneMemory, peakRSS), o.ratioTo(p, s.name, sceneMemory, peakRSS),
			of(sceneStreaming, peakRSS), of(sceneBulkFull, peakRSS))
	}
	t.write(w)
}

// writeFailures names the peers' runs that had to be repeated.
func (o *outcome) writeFailures(w *bytes.Buffer, s setting) {
	var lines []string
	for k, failed := range o.results {
		if k.setting == s.name && k.metric == failedRuns {
			p, _ := o.participant(k.subject)
			lines = append(lines, fmt.Sprintf("Requests through %s failed in %d runs (%s), which were repeated.", p.label(), len(failed), k.scene))
		}
	}
	slices.Sort(lines)
	for _, line := range lines {
		fmt.Fprintf(w, "%s\n\n", line)
	}
}

func (o *outcome) writeScale(w *bytes.Buffer) {
	at := scaleShape.scene()
	if len(o.results.of(scaleSetting.name, scaleCases[0].name, at, cpuPerRPC)) == 0 {
		return
	}
	fmt.Fprintf(w, "## The size of the mesh: Pillion, %s, %s, round_robin where nothing else is said\n\n", scaleSetting.workersText(), scaleShape)
	t := table{head: []string{"", "connections to instances", "CPU, µs per RPC", "÷ small mesh", "idle, MB", "peak, MB"}}
	for _, c := range scaleCases {
		of := func(s scene, m metric) []float64 { return o.results.of(scaleSetting.name, c.name, s, m) }
		small := ""
		if c.base != "" {
			r, ok := compare(of(at, cpuPerRPC), o.results.of(scaleSetting.name, c.base, at, cpuPerRPC))
			small = r.text(ok, false)
		}
		t.row(c.title,
			figure(of(at, liveConns), 1, 0),
			figure(of(at, cpuPerRPC), 1, 2), small,
			figure(of(sceneMemory, idleRSS), megabyte, 1),
			figure(of(sceneMemory, peakRSS), megabyte, 1))
	}
	t.write(w)
}

// writeBig shows the part about many connections and streams, large messages and
// a high rate.
func (o *outcome) writeBig(w *bytes.Buffer) {
	if !o.opts.has(partBig) {
		return
	}
	of := func(p participant, at scene, m metric) []float64 { return o.results.of(bigSetting.name, p.name, at, m) }
	to := func(p participant, at scene, m metric) string { return o.ratioTo(p, bigSetting.name, at, m) }
	fmt.Fprintf(w, "## Many and large: %s, alone on a core\n\n", bigSetting.workersText())
	fmt.Fprint(w, "### Resident memory for each, KB\n\n")
	head := []string{""}
	for _, s := range crowdScenes {
		head = append(head, s.what, o.overIt())
	}
	t := table{head: head}
	for _, p := range o.participants {
		row := []string{p.label()}
		for _, s := range crowdScenes {
			row = append(row, figure(of(p, s.scene, bytesEach), kilo, 2), to(p, s.scene, bytesEach))
		}
		t.row(row...)
	}
	t.write(w)
	if series := o.results.of(bigSetting.name, roleTLS, sceneTLS, bytesEach); len(series) > 0 {
		fmt.Fprintf(w, "Pillion's engine behind crypto/tls takes %s KB for an idle connection, of 5,000.\n\n", figure(series, kilo, 2))
	}

	fmt.Fprintf(w, "### Unary, %d RPC/s asked for, %s\n\n", bigRate, rateShape)
	t = table{head: []string{"", "1,000 RPC/s", "cores busy", o.overIt(), "p50, ms", "p99, ms"}}
	for _, p := range o.participants {
		t.row(p.label(), figure(of(p, sceneRate, rpcPerSecond), kilo, 1),
			figure(of(p, sceneRate, cpuShare), 1, 2), to(p, sceneRate, cpuShare),
			figure(of(p, sceneRate, sameP50), perMilli, 2), figure(of(p, sceneRate, sameP99), perMilli, 2))
	}
	t.write(w)

	for _, at := range []scene{sceneMessage, sceneGiB} {
		fmt.Fprintf(w, "### One at a time: %s\n\n", at)
		t = table{head: []string{"", "MB/s", o.overIt(), "CPU, s per GiB", o.overIt(), "peak memory, MB", o.overIt()}}
		for _, p := range o.participants {
			t.row(p.label(), figure(of(p, at, bytesPerSecond), megabyte, 0), to(p, at, bytesPerSecond),
				figure(of(p, at, cpuPerGiB), 1, 2), to(p, at, cpuPerGiB),
				figure(of(p, at, peakRSS), megabyte, 1), to(p, at, peakRSS))
		}
		t.write(w)
	}
	o.writeFailures(w, bigSetting)
	for _, p := range o.participants {
		for _, s := range crowdScenes {
			if n := len(of(p, s.scene, couldNot)); n > 0 {
				fmt.Fprintf(w, "%s did not hold %s, in %d runs.\n\n", p.label(), s.scene, n)
			}
		}
	}
}

// writeAbuse shows what attacks did to others.
func (o *outcome) writeAbuse(w *bytes.Buffer) {
	p, ok := o.participant(pillionName)
	if !ok {
		return
	}
	for _, name := range o.opts.settings {
		setting := abuseSettings[name]
		of := func(s scene, m metric) []float64 { return o.results.of(setting.name, p.name, s, m) }
		if len(of(sceneCalm, sameP99)) == 0 {
			continue
		}
		fmt.Fprintf(w, "## Under attack: unary RPCs of others (%d per second), Pillion, %s\n\n", besideRate, setting.workersText())
		t := table{head: []string{"", "p50, ms", "p99, ms", "p99 ÷ no attack", "peak memory, MB"}}
		if o.opts.control {
			t.head = append(t.head, "p99 while another is attacked, ms")
		}
		row := func(s scene, ratio, control string) {
			cells := []string{string(s), figure(of(s, sameP50), perMilli, 2), figure(of(s, sameP99), perMilli, 2), ratio, figure(of(s, peakRSS), megabyte, 1)}
			if o.opts.control {
				cells = append(cells, control)
			}
			t.row(cells...)
		}
		row(sceneCalm, "", "")
		calm := median(of(sceneCalm, sameP99))
		for _, a := range o.opts.abuses() {
			row(a.scene(), fmt.Sprintf("%.2f", median(of(a.scene(), sameP99))/calm), figure(of(a.control(), sameP99), perMilli, 2))
		}
		t.write(w)
	}
}
