package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/experiment/report"
	"github.com/pillion-proxy/pillion/control/requests"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	adminv1 "github.com/pillion-proxy/pillion/proto/pillion/admin/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// experimentStory shows an experiment with an effect that is built into the app, from the
// plan to the report, and beside it one of two variants that are alike.
var experimentStory = scenario{
	short:      "which of two variants sells more, with an interval that holds whenever one looks",
	opening:    "Starting greeters a and b, a sidecar beside each, and sidecars for three clients, who share 8,000 users…",
	greeters:   []string{"a", "b"},
	clients:    3,
	users:      8000,
	duration:   storyDuration,
	rate:       500,
	policies:   func(pace) string { return "" },
	controlled: true,
	note: func(s *stage) string {
		if s.watched == "" {
			return ""
		}
		return s.comparison()
	},
	play:    playExperiment,
	verdict: func(s *stage) []finding { return s.findings },
}

// alikeName is the experiment whose variants are alike.
const alikeName = "greeting-aa"

const experimentDocuments = `experiments:
- name: ` + experimentName + `
  service: greeter
  unit: {metadata: ` + userKey + `}
  variants:
  - {name: blue, weight: 5000}
  - {name: ` + sellsMore + `, weight: 5000}
  measures:
  - success: {}
  - {name: revenue, reported: revenue, min_effect: 0.1}
  false_alarm: 0.01
- name: ` + alikeName + `           # two variants that are alike, of the same users
  service: greeter
  unit: {metadata: ` + userKey + `}
  variants:
  - {name: one, weight: 5000}
  - {name: other, weight: 5000}
  measures:
  - success: {}
  - {name: revenue, reported: revenue, min_effect: 0.1}
  false_alarm: 0.001
`

// revenue is the number of the measure that the app reports.
const revenue = 1

// effect is by which part the app is made to sell more: the less, the longer it may take
// to find that.
func effect(o Options) float64 {
	if float64(o.Rate)*o.Duration.Seconds() >= 15_000 {
		return 0.1
	}
	return 1
}

func playExperiment(ctx context.Context, s *stage) error {
	more := effect(s.options)
	if err := s.fleet.tellAll(ctx, behaviour{sells: more}); err != nil {
		return err
	}
	s.screen.event(fmt.Sprintf("the greeter reports what users buy, and is built to sell %.0f %% more where the greeting is %s", 100*more, sellsMore))
	if err := s.write("experiments.yaml", experimentDocuments); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"experiment", "plan", experimentName, "-f", "experiments.yaml", "--units-per-day", "5000", "--baseline", "success=0.99", "--baseline", "revenue=3,2.1"},
		{"apply", "-f", "experiments.yaml", "-m", "does green sell more?"},
		{"experiment", "start", experimentName},
		{"experiment", "start", alikeName},
	} {
		if err := s.do(ctx, args...); err != nil {
			return err
		}
	}
	s.load.forget()
	s.watched = experimentName
	over := time.Now().Add(time.Duration(s.pace) * 3 / 4)
	enough := func() bool { return time.Now().After(over) && len(s.looks) > 1 && s.claimed }
	if err := s.until(ctx, "the experiment shows the difference that is built in", time.Duration(s.pace)+patience, enough); err != nil {
		return err
	}
	s.watched = ""
	seen := s.load.sighted()
	for _, name := range []string{experimentName, alikeName} {
		if err := s.do(ctx, "experiment", "stop", name, "-m", "we have seen enough"); err != nil {
			return err
		}
	}
	if err := s.do(ctx, "experiment", "report", experimentName); err != nil {
		return err
	}
	where, err := reportFile(s.options.Report)
	if err != nil {
		return err
	}
	if err := s.do(ctx, "experiment", "report", experimentName, "-o", "html", "--save", where); err != nil {
		if s.options.Report == "" {
			_ = os.Remove(where) // it is empty
		}
		return err
	}
	if err := s.do(ctx, "experiment", "report", alikeName); err != nil {
		return err
	}
	return s.compare(ctx, more, seen, where)
}

// reportFile is where a report is written, which is to stay when the demo has ended.
func reportFile(asked string) (string, error) {
	if asked != "" {
		return filepath.Abs(asked)
	}
	f, err := os.CreateTemp("", "pillion-demo-report-*.html")
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

// ended is what an experiment had come to at its end.
func (s *stage) ended(ctx context.Context, name string) (*report.Analysis, error) {
	store, err := s.fleet.store()
	if err != nil {
		return nil, err
	}
	list, err := requests.History(ctx, store, requests.Subject{Kind: control.Experiment, Service: "greeter", Name: name})
	if err != nil {
		return nil, err
	}
	results := &meshv1.ResultsResponse{}
	if err := proto.Unmarshal(list[len(list)-1].GetResults(), results); err != nil {
		return nil, err
	}
	return analyze(name, results)
}

// compare says what came of both experiments.
func (s *stage) compare(ctx context.Context, more float64, seen sightings, where string) error {
	a, err := s.ended(ctx, experimentName)
	if err != nil {
		return err
	}
	alike, err := s.ended(ctx, alikeName)
	if err != nil {
		return err
	}
	c := a.Measures[revenue].Comparisons[0]
	s.finds(c.Verdict == report.Better, "users to whom the greeting is %s spend %s compared with the others (%s), by %d users: %s",
		sellsMore, inPercent(c.Relative), interval(c.RelativeInterval), a.Units, c.Verdict)
	s.finds(float64(c.RelativeInterval.Low) <= more && more <= float64(c.RelativeInterval.High), "that interval covers the %.0f %% that are built in", 100*more)
	s.finds(narrower(s.looks), "it was looked at %d times, and became narrower: %s at first, then %s", len(s.looks), interval(s.looks[0]), interval(s.looks[len(s.looks)-1]))
	s.finds(seen.leaked == 0 && seen.rpcs > 0, "of %d RPCs the clients saw %d with what the app had reported to the sidecars", seen.rpcs, seen.leaked)
	claims := 0
	for _, m := range alike.Measures {
		if v := m.Comparisons[0].Verdict; v == report.Better || v == report.Worse {
			claims++
		}
	}
	d := alike.Measures[revenue].Comparisons[0]
	s.finds(claims == 0, "of two variants that are alike nothing is claimed: revenue differs by %s (%s)", inPercent(d.Relative), interval(d.RelativeInterval))
	s.screen.say("\nThe report as a page with plots: " + where)
	return nil
}

// narrower says whether the last of the intervals that were seen is narrower than the first.
func narrower(looks []report.Range) bool {
	if len(looks) < 2 {
		return false
	}
	wide := func(r report.Range) float64 { return float64(r.High - r.Low) }
	return wide(looks[len(looks)-1]) < wide(looks[0])
}

// comparison says how the watched experiment stands.
func (s *stage) comparison() string {
	var results *meshv1.ResultsResponse
	err := s.fleet.askClient(func(ctx context.Context, sidecar adminv1.AdminClient) error {
		answer, err := sidecar.GetResults(ctx, &adminv1.GetResultsRequest{Service: "greeter", Name: s.watched})
		results = answer.GetResults()
		return err
	})
	if err != nil {
		return "revenue: not counted yet"
	}
	a, err := analyze(s.watched, results)
	if err != nil {
		return err.Error()
	}
	c := a.Measures[revenue].Comparisons[0]
	if c.RelativeInterval.Low.Known() && c.RelativeInterval.High.Known() {
		s.looks = append(s.looks, c.RelativeInterval)
	}
	s.claimed = c.Verdict == report.Better
	return fmt.Sprintf("%s: %s revenue (%s), %d users: %s", sellsMore, inPercent(c.Relative), interval(c.RelativeInterval), a.Units, verdicts[c.Verdict])
}

// verdicts are what people call them.
var verdicts = map[report.Verdict]string{
	report.Better: "better", report.Worse: "worse", report.Open: "nothing shown yet", report.Negligible: "no difference that matters",
	report.TooFew: "too few users yet", report.None: "not divided as it should be",
}

// analyze says what the results of one of the story's experiments mean.
func analyze(name string, results *meshv1.ResultsResponse) (*report.Analysis, error) {
	f, err := configyaml.ParseDocuments("experiments.yaml", []byte(experimentDocuments))
	if err != nil {
		return nil, err
	}
	for _, e := range f.Effective.GetExperiments() {
		if e.GetName() == name {
			return report.Analyze(e, results), nil
		}
	}
	return nil, fmt.Errorf("the story has no experiment %q", name)
}

func inPercent(n report.Number) string {
	if !n.Known() {
		return "?"
	}
	return fmt.Sprintf("%+.1f %%", 100*float64(n))
}

func interval(r report.Range) string { return inPercent(r.Low) + " to " + inPercent(r.High) }
