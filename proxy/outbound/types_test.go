package outbound

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/proxy/meshreflect"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// learners runs a test with a typeLearner in virtual time; asked are the
// services that it asked.
func learners(t *testing.T, methods []meshreflect.Method, test func(t *testing.T, l *typeLearner, asked *[]string)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newTypeLearner(telemetry.NewMetrics(telemetry.Outbound))
		var asked []string
		l.start(func(ctx context.Context, service string) ([]meshreflect.Method, error) {
			asked = append(asked, service)
			switch service {
			case "hung":
				<-ctx.Done()
				return nil, ctx.Err()
			case "dead":
				return nil, errors.New("dead")
			}
			return methods, nil
		})
		defer l.stop()
		test(t, l, &asked)
	})
}

func TestServicesAreAskedForTypesNowAndThen(t *testing.T) {
	learners(t, nil, func(t *testing.T, l *typeLearner, asked *[]string) {
		for _, step := range []struct {
			after time.Duration
			want  []string
		}{
			{0, []string{"dead", "greeter"}},
			{typesEvery - 1, []string{"dead", "greeter"}},
			{1, []string{"dead", "greeter", "dead", "greeter"}},
		} {
			time.Sleep(step.after) // virtual
			for range 3 {
				l.answered("dead")
				l.answered("greeter")
			}
			synctest.Wait()
			if !slices.Equal(*asked, step.want) {
				t.Errorf("%v later %v were asked, want %v", step.after, *asked, step.want)
			}
		}
	})
}

func TestServicesAskedForTypesAreBounded(t *testing.T) {
	learners(t, nil, func(t *testing.T, l *typeLearner, asked *[]string) {
		for round := range 2 {
			for n := range maxTyped + 1 {
				l.answered(fmt.Sprint(round, n))
			}
			synctest.Wait()
			if n, want := len(*asked), (round+1)*maxTyped; n != want {
				t.Errorf("%d services were asked in round %d, want %d", n, round, want)
			}
			time.Sleep(typesEvery) // virtual
		}
	})
}

// What the app calls keeps its place in the metrics.
func TestMethodsForeseenAreBounded(t *testing.T) {
	const maxForeseen = 1000
	methods := make([]meshreflect.Method, maxForeseen+2)
	for n := range methods {
		methods[n].FullMethod = fmt.Sprintf("/s/m%d", n)
	}
	learners(t, methods, func(t *testing.T, l *typeLearner, _ *[]string) {
		called := methods[maxForeseen+1].FullMethod
		l.metrics.Learn(called, telemetry.TypeUnknown)
		l.answered("greeter")
		synctest.Wait()
		if l.metrics.Method(methods[maxForeseen-1].FullMethod).Other() {
			t.Error("a method within the bound is not known")
		}
		if !l.metrics.Method(methods[maxForeseen].FullMethod).Other() {
			t.Error("a method beyond the bound is known")
		}
	})
}

func TestStopEndsAQuestionUnderWay(t *testing.T) {
	learners(t, nil, func(t *testing.T, l *typeLearner, asked *[]string) {
		l.answered("hung")
		l.answered("never")
		synctest.Wait()
		l.stop() // or the test never ends
		if !slices.Contains(*asked, "hung") {
			t.Error("nothing was under way")
		}
		l.answered("after the end") // harmless
	})
}
