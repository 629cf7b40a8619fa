package main

import (
	"fmt"
	"os"
	"strings"
)

// The tables stand between these lines of the page; the rest of it is written
// by hand.
const (
	beginMarker = "<!-- bench: begin -->"
	endMarker   = "<!-- bench: end -->"
)

// page is a file with a place for the tables.
type page struct {
	path          string
	before, after string
}

// readPage finds the place in a file.
func readPage(path string) (page, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return page{}, fmt.Errorf("the page for the tables: %w (-out= writes none)", err)
	}
	before, rest, hasBegin := strings.Cut(string(b), beginMarker)
	_, after, hasEnd := strings.Cut(rest, endMarker)
	if !hasBegin || !hasEnd {
		return page{}, fmt.Errorf("the page for the tables: %s has no lines %q and %q to write between", path, beginMarker, endMarker)
	}
	return page{path: path, before: before, after: after}, nil
}

// write replaces what stands in the place.
func (p page) write(tables string) error {
	text := p.before + beginMarker + "\n\n" + strings.TrimSpace(tables) + "\n\n" + endMarker + p.after
	if err := os.WriteFile(p.path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("the page for the tables: %w", err)
	}
	return nil
}
