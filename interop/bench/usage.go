package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of the times in /proc/PID/stat. Linux fixes it at a
// hundredth of a second for user space, whatever the kernel's own tick.
const clockTick = 10 * time.Millisecond

var errStat = errors.New("cannot make sense of /proc/PID/stat")

// procStat is what this program wants of /proc/PID/stat.
type procStat struct {
	parent int
	// cpu is user and system time of all threads, ended ones included.
	cpu time.Duration
}

func parseStat(b []byte) (procStat, error) {
	// The second field is the command's name in parentheses, in which anything
	// may stand.
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return procStat{}, errStat
	}
	fields := strings.Fields(string(b[end+1:]))
	const parent, utime, stime = 4 - 3, 14 - 3, 15 - 3 // as proc(5) counts, less the two before
	if len(fields) <= stime {
		return procStat{}, errStat
	}
	var n [3]int64
	for i, field := range []int{parent, utime, stime} {
		v, err := strconv.ParseInt(fields[field], 10, 64)
		if err != nil {
			return procStat{}, fmt.Errorf("%w: %w", errStat, err)
		}
		n[i] = v
	}
	return procStat{parent: int(n[0]), cpu: time.Duration(n[1]+n[2]) * clockTick}, nil
}

func readStat(pid int) (procStat, error) {
	b, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return procStat{}, err
	}
	return parseStat(b)
}

func procPath(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// family returns pid and all that descends from it (nginx has workers).
func family(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if s, err := readStat(child); err == nil { // it may have ended meanwhile
			children[s.parent] = append(children[s.parent], child)
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all, nil
}

// cpuTime is the CPU time that pid and its descendants have used.
func cpuTime(pid int) (time.Duration, error) {
	pids, err := family(pid)
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, p := range pids {
		s, err := readStat(p)
		if err != nil {
			return 0, err
		}
		sum += s.cpu
	}
	return sum, nil
}

// memory is a process's resident memory in bytes.
type memory struct {
	now, peak int64
}

// residentMemory sums the memory of pid and its descendants; pages that they
// share count for each.
func residentMemory(pid int) (memory, error) {
	pids, err := family(pid)
	if err != nil {
		return memory{}, err
	}
	var sum memory
	for _, p := range pids {
		b, err := os.ReadFile(procPath(p, "status"))
		if err != nil {
			return memory{}, err
		}
		m, err := parseMemory(string(b))
		if err != nil {
			return memory{}, fmt.Errorf("process %d: %w", p, err)
		}
		sum.now += m.now
		sum.peak += m.peak
	}
	return sum, nil
}

// parseMemory reads VmRSS and VmHWM from /proc/PID/status.
func parseMemory(status string) (memory, error) {
	var m memory
	for name, into := range map[string]*int64{"VmRSS:": &m.now, "VmHWM:": &m.peak} {
		_, rest, ok := strings.Cut(status, name)
		if !ok {
			return memory{}, fmt.Errorf("no %s in /proc/PID/status: %w", name, errNotFound)
		}
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[1] != "kB" {
			return memory{}, fmt.Errorf("%s in /proc/PID/status is not in kB: %w", name, errNotFound)
		}
		kib, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			return memory{}, fmt.Errorf("%s in /proc/PID/status: %w", name, err)
		}
		*into = kib << 10
	}
	return m, nil
}

// resetPeak makes the kernel count VmHWM anew (proc(5), clear_refs).
func resetPeak(pid int) error {
	pids, err := family(pid)
	if err != nil {
		return err
	}
	for _, p := range pids {
		if err := os.WriteFile(procPath(p, "clear_refs"), []byte("5"), 0); err != nil {
			return fmt.Errorf("resetting the peak of resident memory: %w", err)
		}
	}
	return nil
}
