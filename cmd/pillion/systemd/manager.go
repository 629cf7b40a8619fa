package systemd

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Manager is the service manager, as far as it listens to this process (sd_notify
// protocol). A nil Manager is none: nobody is told.
type Manager struct {
	logger *slog.Logger
	addr   *net.UnixAddr

	mu   sync.Mutex
	conn *net.UnixConn // kept: out of descriptors, the watchdog must be told still
}

// New returns the service manager that NOTIFY_SOCKET names, nil for none.
func New(logger *slog.Logger) *Manager {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	m := &Manager{logger: logger, addr: &net.UnixAddr{Name: path, Net: "unixgram"}}
	if err := m.dial(); err != nil {
		logger.Warn("the service manager cannot be told how the service fares", "socket", path, "err", err)
	}
	return m
}

// Started says whether systemd itself has started this process, rather than a
// shell or an older pillion.
func Started() bool { return os.Getenv("SYSTEMD_EXEC_PID") == strconv.Itoa(os.Getpid()) }

// dial needs mu, or nobody else.
func (m *Manager) dial() (err error) {
	m.conn, err = net.DialUnix(m.addr.Net, nil, m.addr)
	return err
}

// Ready says that the service serves, and with which status text.
func (m *Manager) Ready(status string) { m.tell(daemon.SdNotifyReady, statusLine(status)) }

// Stopping says that the service is ending.
func (m *Manager) Stopping(status string) { m.tell(daemon.SdNotifyStopping, statusLine(status)) }

// Reloading says that an upgrade has begun; Ready or Replaced has to follow.
func (m *Manager) Reloading(status string) {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // it cannot fail for this clock
	m.tell(daemon.SdNotifyReloading, fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000), statusLine(status))
}

// Replaced says that the service serves, in another process from now on: what this
// one says later is not heard any more.
func (m *Manager) Replaced(pid int) {
	m.tell(fmt.Sprintf("MAINPID=%d", pid), daemon.SdNotifyReady)
}

func (m *Manager) watchdog() { m.tell(daemon.SdNotifyWatchdog) }

func statusLine(text string) string { return "STATUS=" + strings.ReplaceAll(text, "\n", " ") }

// tell sends one message. It fails only where the manager is gone, and then there
// is nobody to tell.
func (m *Manager) tell(lines ...string) {
	if m == nil {
		return
	}
	text := []byte(strings.Join(lines, "\n"))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		if _, err := m.conn.Write(text); err == nil {
			return
		}
		_ = m.conn.Close()
	}
	if err := m.dial(); err != nil {
		m.logger.Debug("the service manager cannot be told", "message", lines[0], "err", err)
		return
	}
	_, _ = m.conn.Write(text)
}

// Close ends the conversation.
func (m *Manager) Close() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.conn != nil {
		_ = m.conn.Close()
	}
}
