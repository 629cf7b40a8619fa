package experiment

import (
	"encoding/json"
	"testing"
)

// analysis is what another program takes of a report in JSON. What is null there is 0.
type analysis struct {
	Name        string  `json:"name"`
	Phase       string  `json:"phase"`
	Sidecars    int     `json:"sidecars"`
	Sampled     float64 `json:"sampled"`
	Units       int     `json:"units"`
	Crossed     int     `json:"crossed"`
	SampleRatio struct {
		P        float64 `json:"p"`
		Mismatch bool    `json:"mismatch"`
	} `json:"sample_ratio"`
	Variants []struct {
		Name  string `json:"name"`
		Units int    `json:"units"`
	} `json:"variants"`
	Measures []measure `json:"measures"`
}

type measure struct {
	Name     string `json:"name"`
	Variants []struct {
		Mean float64 `json:"mean"`
	} `json:"variants"`
	Comparisons []comparison `json:"comparisons"`
}

type comparison struct {
	Difference float64 `json:"difference"`
	Interval   struct {
		Low  float64 `json:"low"`
		High float64 `json:"high"`
	} `json:"interval"`
	Corrected float64 `json:"corrected_p"`
	Verdict   string  `json:"verdict"`
}

// plan is what another program takes of a plan.
type plan struct {
	Part     float64 `json:"part"`
	Units    int     `json:"units"`
	Seconds  float64 `json:"seconds"`
	Measures []struct {
		Name     string `json:"name"`
		Variants []struct {
			Units int `json:"units"`
		} `json:"variants"`
	} `json:"measures"`
}

// read reads what a command printed as JSON.
func read[T any](t *testing.T, text string) *T {
	t.Helper()

	of := new(T)
	if err := json.Unmarshal([]byte(text), of); err != nil {
		t.Fatalf("it is no JSON: %v:\n%s", err, text)
	}

	return of
}
