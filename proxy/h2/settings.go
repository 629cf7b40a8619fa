package h2

import (
	"encoding/binary"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// settingID names a parameter of a SETTINGS frame (RFC 9113 section 6.5.2).
type settingID uint16

const (
	settingHeaderTableSize      settingID = 0x1
	settingEnablePush           settingID = 0x2
	settingMaxConcurrentStreams settingID = 0x3
	settingInitialWindowSize    settingID = 0x4
	settingMaxFrameSize         settingID = 0x5
	settingMaxHeaderListSize    settingID = 0x6
)

const (
	// defaultInitialWindow is both windows' size until SETTINGS say otherwise.
	defaultInitialWindow = 65535
	// assumedMaxStreams is how many streams a client opens before the server's
	// SETTINGS have arrived. RFC 9113 sets no limit then; gRPC implementations
	// assume 100, since most servers allow that many.
	assumedMaxStreams = 100
)

// peerSettings are the peer's parameters as far as the engine uses them.
type peerSettings struct {
	maxConcurrentStreams uint32
	initialWindow        int32
	maxFrameSize         int
}

func initialPeerSettings() peerSettings {
	return peerSettings{
		maxConcurrentStreams: assumedMaxStreams,
		initialWindow:        defaultInitialWindow,
		maxFrameSize:         minMaxFrameSize,
	}
}

// settingLen is the length of one parameter in a SETTINGS frame.
const settingLen = 6

func appendSetting(dst []byte, id settingID, value uint32) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(id))
	return binary.BigEndian.AppendUint32(dst, value)
}

// appendFirstSettings appends the SETTINGS frame that begins a connection.
func appendFirstSettings(dst []byte, role Role, cfg *Config) []byte {
	start := len(dst)
	dst = appendFrameHeader(dst, 0, frameSettings, 0, 0)
	if role == Client {
		dst = appendSetting(dst, settingEnablePush, 0)
	} else {
		dst = appendSetting(dst, settingMaxConcurrentStreams, cfg.MaxConcurrentStreams)
	}
	if cfg.HeaderTableSize != hpack.DefaultTableSize {
		dst = appendSetting(dst, settingHeaderTableSize, cfg.HeaderTableSize)
	}
	dst = appendSetting(dst, settingInitialWindowSize, cfg.InitialStreamWindow)
	dst = appendSetting(dst, settingMaxFrameSize, cfg.MaxFrameSize)
	dst = appendSetting(dst, settingMaxHeaderListSize, cfg.MaxHeaderListSize)
	putFrameLength(dst[start:], len(dst)-start-frameHeaderLen)
	return dst
}

// onSettings applies a SETTINGS frame of the peer's (RFC 9113 section 6.5).
func (c *Conn) onSettings(b *Batch, h frameHeader, p []byte) error {
	if h.id != 0 {
		return connError(ProtocolError, "SETTINGS on a stream")
	}
	if h.has(flagAck) {
		if h.length != 0 {
			return connError(FrameSizeError, "SETTINGS acknowledgement with a payload")
		}
		return c.onSettingsAck()
	}
	if h.length%settingLen != 0 {
		return connError(FrameSizeError, "SETTINGS of a length that is not a multiple of 6")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.nuisance(1 + int32(h.length/settingLen/16)); err != nil {
		return err
	}
	limitBefore := c.peer.maxConcurrentStreams
	first := !c.sawSettings
	if first {
		c.sawSettings = true
		c.handshake.Stop()
		// The assumption made before the server spoke ends here: no value means
		// no limit.
		c.peer.maxConcurrentStreams = ^uint32(0)
	}
	window := c.peer.initialWindow
	for ; len(p) > 0; p = p[settingLen:] {
		id := settingID(binary.BigEndian.Uint16(p))
		if err := c.applySetting(id, binary.BigEndian.Uint32(p[2:])); err != nil {
			return err
		}
	}
	if delta := c.peer.initialWindow - window; delta != 0 {
		if err := c.nuisance(int32(c.streams.n / 64)); err != nil { // it costs that much
			return err
		}
		if err := c.shiftSendWindows(delta); err != nil {
			return err
		}
	}
	b.touch(c)
	o := c.owe()
	o.b = appendFrameHeader(o.b, 0, frameSettings, flagAck, 0)
	c.openMore(b)
	if first || c.peer.maxConcurrentStreams > limitBefore {
		c.offerSlots(b)
	}
	return nil
}

// onSettingsAck takes an acknowledgement: of SETTINGS that were sent, or a
// nuisance.
func (c *Conn) onSettingsAck() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unacked > 0 {
		c.unacked--
		return nil
	}
	return c.nuisance(1)
}

// applySetting takes over one parameter. c.mu is held.
func (c *Conn) applySetting(id settingID, v uint32) error {
	switch id {
	case settingHeaderTableSize:
		c.enc.SetMaxTableSize(v)
	case settingEnablePush:
		if v > 1 || (v == 1 && c.role == Client) {
			return connError(ProtocolError, "SETTINGS_ENABLE_PUSH is not acceptable")
		}
	case settingMaxConcurrentStreams:
		c.peer.maxConcurrentStreams = v
	case settingInitialWindowSize:
		if v > maxWindow {
			return connError(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE above 2^31-1")
		}
		c.peer.initialWindow = int32(v)
	case settingMaxFrameSize:
		if v < minMaxFrameSize || v > maxMaxFrameSize {
			return connError(ProtocolError, "SETTINGS_MAX_FRAME_SIZE out of range")
		}
		c.peer.maxFrameSize = int(v)
	}
	// Unknown parameters are ignored (section 6.5.2), and so is the size of header
	// lists, which is advice: the peer refuses what is too large for it.
	return nil
}

// shiftSendWindows applies a change of SETTINGS_INITIAL_WINDOW_SIZE to all
// streams (section 6.9.2), whose windows may become negative. It is done once for
// a frame, however often the frame changes it: it costs as much as there are
// streams. c.mu is held.
func (c *Conn) shiftSendWindows(delta int32) error {
	for s := range c.streams.all() {
		w := int64(s.sendWindow) + int64(delta)
		if w > maxWindow {
			return connError(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE makes a stream's window overflow")
		}
		s.sendWindow = int32(w)
		if delta > 0 {
			c.unblock(s)
		}
	}
	return nil
}
