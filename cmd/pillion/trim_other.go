//go:build !linux

package main

import (
	"log/slog"
	"runtime/debug"
)

// trimMemory gives back the heap that only the start needed.
func trimMemory(*slog.Logger) { debug.FreeOSMemory() }
