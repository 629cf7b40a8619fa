package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// httpTimeout bounds one question to an admin port, beside what the answer is
// asked to take.
const httpTimeout = 5 * time.Second

// httpOK returns a function that says whether url answers 200.
func httpOK(url string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		return get(ctx, url, io.Discard) == nil
	}
}

// get copies what url answers.
func get(ctx context.Context, url string, into io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("GET %s: %w", url, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, response.Status)
	}
	if _, err := io.Copy(into, response.Body); err != nil {
		return fmt.Errorf("GET %s: %w", url, err)
	}
	return nil
}

// fetchProfile writes a CPU profile of so many seconds to path.
func fetchProfile(ctx context.Context, admin, path string, seconds int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+httpTimeout)
	defer cancel()
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	err = get(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", admin, seconds), f)
	return errors.Join(err, f.Close())
}
