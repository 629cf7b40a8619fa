package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/experiment/report"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

func newExperimentPlanCommand() *cobra.Command {
	var (
		admin       adminFlags
		files       []string
		baselines   []string
		from        string
		output      string
		unitsPerDay float64
	)
	cmd := &cobra.Command{
		Use:   "plan [NAME]",
		Short: "Say how many units an experiment needs, and how long it takes",
		Long: `Say beforehand how many units (such as users) an experiment needs to find the differences
that its measures' min_effect names, and how long it takes until they have come.

For that it must be known what each measure is now: --baseline says so, as MEASURE=MEAN, or
MEASURE=MEAN,DEVIATION, where the deviation is the standard deviation between units;
--baseline-from takes what the control of another experiment came to, or of this one before.`,
		Example: `  pillion experiment plan -f checkout-button.yaml --units-per-day 5000 --baseline success=0.99 --baseline latency=0.12,0.08
  pillion experiment plan checkout-button --units-per-day 5000 --baseline-from checkout-aa`,
		Args:              atMostOneRun(control.Experiment),
		ValidArgsFunction: completeRuns(control.Experiment),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != formText && output != formJSON {
				return fmt.Errorf("--output: %q is not known: use text or json", output)
			}
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			e, err := plannedExperiment(cmd, files, name)
			if err != nil {
				return err
			}
			known := map[string]report.Baseline{}
			if from != "" {
				before, results, err := findResults(cmd, &admin, from)
				if err != nil {
					return fmt.Errorf("--baseline-from: %w", err)
				}
				for measure, b := range report.Baselines(before, results) {
					if hasMeasure(e, measure) {
						known[measure] = b
					}
				}
			}
			for _, text := range baselines {
				measure, b, err := parseBaseline(text)
				if err != nil {
					return err
				}
				known[measure] = b
			}
			p, err := report.NewPlan(e, known, unitsPerDay)
			if err != nil {
				return err
			}
			if output == formJSON {
				return p.WriteJSON(cmd.OutOrStdout())
			}
			return p.WriteText(cmd.OutOrStdout())
		},
	}
	addFileFlag(cmd, &files)
	flags := cmd.Flags()
	flags.StringArrayVar(&baselines, "baseline", nil, "what a measure is now, as `MEASURE=MEAN[,DEVIATION]`; may be repeated")
	flags.StringVar(&from, "baseline-from", "", "take what the control of this experiment came to, a `NAME`")
	flags.Float64Var(&unitsPerDay, "units-per-day", 0, "how many new units come per day, a `NUMBER`")
	for _, name := range []string{"baseline", "units-per-day"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	_ = cmd.RegisterFlagCompletionFunc("baseline-from", func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return completeRuns(control.Experiment)(cmd, nil, typed)
	})
	addOutputFlag(cmd, &output, formText)
	admin.add(cmd)
	addStoreFlags(cmd)
	return cmd
}

// plannedExperiment returns the experiment of a file, or of the store.
func plannedExperiment(cmd *cobra.Command, files []string, name string) (*configv1.Experiment, error) {
	if len(files) == 0 {
		if name == "" {
			return nil, errors.New("no experiment is named: give its NAME, or a --file with it")
		}
		doc, err := findExperiment(cmd, name)
		if err != nil {
			return nil, err
		}
		return configyaml.EffectiveExperiment(doc.GetExperiment()), nil
	}
	d, err := readDocumentFiles(files, cmd.InOrStdin())
	if err != nil {
		return nil, err
	}
	found, err := runAmong(control.Experiment, d.list, name)
	if err != nil {
		return nil, err
	}
	return configyaml.EffectiveExperiment(found.GetExperiment()), nil
}

func hasMeasure(e *configv1.Experiment, name string) bool {
	for _, m := range e.GetMeasures() {
		if m.GetName() == name {
			return true
		}
	}
	return false
}

// parseBaseline reads "latency=0.12,0.08".
func parseBaseline(text string) (measure string, b report.Baseline, err error) {
	wrong := func(why string) (string, report.Baseline, error) {
		return "", report.Baseline{}, fmt.Errorf("--baseline: %q %s: write MEASURE=MEAN or MEASURE=MEAN,DEVIATION, such as latency=0.12,0.08", text, why)
	}
	measure, figures, ok := strings.Cut(text, "=")
	if !ok || measure == "" {
		return wrong("names no measure")
	}
	mean, deviation, both := strings.Cut(figures, ",")
	if b.Mean, err = strconv.ParseFloat(mean, 64); err != nil || math.IsNaN(b.Mean) || math.IsInf(b.Mean, 0) {
		return wrong("has no number for a mean")
	}
	if both {
		if b.Deviation, err = strconv.ParseFloat(deviation, 64); err != nil || !(b.Deviation > 0) || math.IsInf(b.Deviation, 0) {
			return wrong("has no number above 0 for a deviation")
		}
	}
	return measure, b, nil
}
