package main

import (
	"bufio"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// trimMemory gives back what only the start needed, about half of the resident
// memory: heap that the parsing and checking of configuration used, and pages of
// the binary itself that hold code and tables of packages' initialization. Those
// are clean pages of a file: what is needed after all comes back from the page
// cache.
func trimMemory(logger *slog.Logger) {
	debug.FreeOSMemory()
	binary, err := os.Executable()
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer func() { _ = maps.Close() }()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		start, length, ok := cleanPages(lines.Text(), binary)
		if !ok {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, start, length, unix.MADV_DONTNEED); errno != 0 {
			logger.Debug("pages of the binary stay in memory", "err", errno)
		}
	}
}

// cleanPages reads a line of /proc/self/maps (proc(5)). It is true for a mapping
// of the binary that nobody can have written to.
func cleanPages(line, binary string) (start, length uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[5] != binary || strings.Contains(fields[1], "w") {
		return 0, 0, false
	}
	from, to, found := strings.Cut(fields[0], "-")
	first, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if !found || err1 != nil || err2 != nil || end <= first {
		return 0, 0, false
	}
	return uintptr(first), uintptr(end - first), true
}
