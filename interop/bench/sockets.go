package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// connectionsTo counts the established TCP connections that a process has
// opened to a port of this machine (IPv4).
func connectionsTo(pid int, addr string) (int, error) {
	_, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return 0, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return 0, err
	}
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0, err
	}
	open, err := openSockets(pid)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, inode := range establishedTo(string(table), uint16(port)) {
		if open[inode] {
			n++
		}
	}
	return n, nil
}

// establishedTo returns the inodes of the sockets in a table like
// /proc/net/tcp that are connected to a port.
func establishedTo(table string, port uint16) []string {
	const (
		remote      = 2
		state       = 3
		inode       = 9
		established = "01"
	)
	suffix := fmt.Sprintf(":%04X", port)
	var inodes []string
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) > inode && fields[state] == established && strings.HasSuffix(fields[remote], suffix) {
			inodes = append(inodes, fields[inode])
		}
	}
	return inodes
}

// openSockets returns the inodes of a process's sockets.
func openSockets(pid int) (map[string]bool, error) {
	dir := procPath(pid, "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	open := map[string]bool{}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			open[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return open, nil
}
