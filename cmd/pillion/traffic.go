package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

func newTrafficCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "traffic",
		Short: "Move RPCs from one version to another",
		Args:  noArguments,
	}
	cmd.AddCommand(newTrafficShiftCommand())
	return cmd
}

func newTrafficShiftCommand() *cobra.Command {
	var (
		c         configv1.Canary
		steps     []string
		hold      time.Duration
		stickTo   string
		elsewhere bool
		timeout   time.Duration
	)
	cmd := &cobra.Command{
		Use:   "shift NAME",
		Short: "Move RPCs from one subset to another, step by step",
		Long: `Move a service's RPCs from one subset of its instances to another, step by step, whatever
comes of them: it is a canary without guards, written as a document and started. pillion
canary shows it, pauses it and takes it back.`,
		Example: "  pillion traffic shift to-v2 --service greeter --from v1 --to v2 --steps 10%,50%,100% --hold 1m",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("%d arguments are given, but one name for the shift is wanted, such as: pillion traffic shift to-v2 …", len(args))
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Name = args[0]
			weights, err := shares(steps)
			if err != nil {
				return fmt.Errorf("--steps: %w", err)
			}
			for _, w := range weights {
				c.Steps = append(c.Steps, &configv1.CanaryStep{Weight: w, Hold: durationpb.New(hold)})
			}
			if stickTo != "" {
				c.Sticky = &configv1.HashKey{From: &configv1.HashKey_Metadata{Metadata: stickTo}}
			}
			if err := configyaml.CheckCanary(configyaml.EffectiveCanary(&c)); err != nil {
				return err
			}
			d := &documentFiles{list: []*controlv1.Document{{Body: &controlv1.Document_Canary{Canary: &c}}}}
			if err := applyBefore(cmd, d, elsewhere); err != nil {
				return err
			}
			return askCanary(cmd, c.GetName(), controlv1.Action_ACTION_START, timeout)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&c.Service, "service", "", "the service's `NAME`")
	flags.StringVar(&c.Stable, "from", "", "the `SUBSET` that has the RPCs now")
	flags.StringVar(&c.Canary, "to", "", "the `SUBSET` that is to have them")
	flags.StringSliceVar(&steps, "steps", nil, "the other subset's `SHARES`, one after the other, such as 10%,50%,100%")
	flags.DurationVar(&hold, "hold", time.Minute, "how long each step lasts, a `DURATION`")
	flags.StringSliceVar(&c.Methods, "methods", nil, "only these `METHODS`, such as helloworld.Greeter/SayHello")
	flags.StringVar(&stickTo, "sticky", "", "send RPCs with the same value of this metadata `KEY` the same way")
	flags.BoolVar(&elsewhere, "subsets-elsewhere", false, "allow subsets that no document defines, but Consul or mesh files do")
	for _, name := range []string{"service", "from", "to", "steps"} {
		_ = cmd.MarkFlagRequired(name)
	}
	for _, name := range []string{"service", "from", "to", "steps", "hold", "methods", "sticky"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	addAskFlags(cmd, &timeout)
	return cmd
}

// shares reads percentages, in 1/10,000.
func shares(list []string) (weights []uint32, err error) {
	if len(list) == 0 {
		return nil, errors.New("give the shares, such as 10%,50%,100%")
	}
	for _, text := range list {
		p, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(text), "%"), 64)
		weight := math.Round(p * 100)
		if err != nil || !strings.HasSuffix(strings.TrimSpace(text), "%") || !(p > 0 && p <= 100) || math.Abs(weight-p*100) > 1e-6 {
			return nil, fmt.Errorf("%q is no share: write 0.01%% to 100%%, with two decimals at most", text)
		}
		weights = append(weights, uint32(weight))
	}
	return weights, nil
}
