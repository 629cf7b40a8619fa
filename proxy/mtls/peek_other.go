//go:build !linux

package mtls

import "syscall"

const canPeek = false

func peek(syscall.RawConn) ([]byte, error) { return nil, syscall.ENOTSUP }
