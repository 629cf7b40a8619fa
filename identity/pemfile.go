package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
)

const (
	// maxFile is the most bytes of a file of certificates.
	maxFile = 1 << 20
	// maxReads is how often a file is read again that changes meanwhile.
	maxReads = 5
	// forbidden are the permissions that a key's file may not give: to the group any but
	// reading, to others any.
	forbidden fs.FileMode = 0o037
)

// ReadFile reads a file of at most 1 MiB. The error begins with its name.
func ReadFile(path string) ([]byte, error) { return readFile(path, nil) }

// ReadKeyFile reads the file of a private key, as ReadFile does, if nobody but its owner
// and its group can read it, and nobody but its owner can change it.
func ReadKeyFile(path string) ([]byte, error) { return readFile(path, checkPermissions) }

// readFile reads a file that passes a check. The error names it.
func readFile(path string, check func(path string, info fs.FileInfo) error) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", path, withoutPath(err))
	}
	defer func() { _ = file.Close() }()
	// Asked of what is open: by its name it could be another one by now.
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", path, withoutPath(err))
	}
	if check != nil {
		if err := check(path, info); err != nil {
			return nil, err
		}
	}
	text, err := readSettled(func() ([]byte, error) {
		return io.ReadAll(io.NewSectionReader(file, 0, maxFile+1))
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s cannot be read: %w", path, withoutPath(err))
	case len(text) > maxFile:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return text, nil
}

// readSettled reads until it comes to the same twice in a row. A file that somebody writes
// in place meanwhile may be read with its old beginning and its new end, and if those
// are of two certificates for the same service, that may look like one.
func readSettled(read func() ([]byte, error)) ([]byte, error) {
	before, err := read()
	for range maxReads {
		if err != nil {
			return nil, err
		}
		var text []byte
		if text, err = read(); err == nil && bytes.Equal(before, text) {
			return text, nil
		}
		before = text
	}
	if err == nil {
		err = errors.New("it is being written over and over")
	}
	return nil, err
}

// withoutPath leaves out what the message around it says already.
func withoutPath(err error) error {
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		return pathError.Err
	}
	return err
}

// checkPermissions refuses a key that others could read or change.
func checkPermissions(path string, info fs.FileInfo) error {
	mode := info.Mode().Perm()
	if mode&forbidden == 0 || runtime.GOOS == "windows" {
		return nil
	}
	what := "be read or changed by others than its owner and group"
	if mode&0o007 == 0 {
		what = "be changed by its group"
	}
	return fmt.Errorf("%s has mode %04o, so it can %s: chmod 0600 %s (in a Kubernetes volume: defaultMode: 0440)",
		path, mode, what, path)
}
