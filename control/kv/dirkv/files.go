package dirkv

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pillion-proxy/pillion/control/kv"
)

const (
	// maxFiles bounds what is looked at below a prefix.
	maxFiles = 100_000
	// maxOwn bounds the store's own files, in bytes.
	maxOwn = 16 << 20
)

// readFile reads an ordinary file of at most so many bytes, and says when it was changed.
func readFile(path string, most int) (content []byte, changed time.Time, err error) {
	// A pipe must not keep us waiting, and a link may lead anywhere.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		if errors.Is(err, syscall.ELOOP) {
			err = &os.PathError{Op: "open", Path: path, Err: errors.New("it is a link, not an ordinary file")}
		}
		return nil, time.Time{}, err
	}
	defer func() { _ = file.Close() }()
	for range 3 {
		info, err := file.Stat()
		if err != nil {
			return nil, time.Time{}, err
		}
		if !info.Mode().IsRegular() {
			return nil, time.Time{}, &os.PathError{Op: "read", Path: path, Err: errors.New("it is not an ordinary file")}
		}
		if info.Size() > int64(most) {
			return nil, time.Time{}, &os.PathError{Op: "read", Path: path, Err: fmt.Errorf("it has %d bytes, at most %d may be", info.Size(), most)}
		}
		if content, err = io.ReadAll(io.NewSectionReader(file, 0, int64(most))); err != nil {
			return nil, time.Time{}, err
		}
		again, err := file.Stat()
		if err != nil {
			return nil, time.Time{}, err
		}
		if again.ModTime().Equal(info.ModTime()) {
			return content, info.ModTime(), nil
		}
	}
	return nil, time.Time{}, &os.PathError{Op: "read", Path: path, Err: errors.New("it is being changed")}
}

// versionOf tells a file's state from all others: commits give files times that never
// come again, and people's changes are others.
func versionOf(content []byte, changed time.Time) uint64 {
	hash := sha256.New()
	_ = binary.Write(hash, binary.BigEndian, changed.UnixNano())
	_, _ = hash.Write(content)
	return max(1, binary.BigEndian.Uint64(hash.Sum(nil)))
}

// read is what a key has, nil if there is nothing. The lock is held.
func (s *Store) read(pending *journal, key string) (*kv.Entry, error) {
	path, err := s.path(key)
	if err != nil {
		return nil, err
	}
	if file, ok := pending.changes()[key]; ok {
		if file == "" {
			return nil, nil
		}
		if content, changed, err := readFile(s.own(filepath.Join(newDir, file)), kv.MaxValue); err == nil {
			return &kv.Entry{Key: key, Value: content, Version: versionOf(content, changed)}, nil
		} // else it has its name already
	}
	content, changed, err := readFile(path, kv.MaxValue)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = s.present()
		}
		return nil, err
	}
	return &kv.Entry{Key: key, Value: content, Version: versionOf(content, changed)}, nil
}

// present says whether the folder is there.
func (s *Store) present() error {
	_, err := os.Stat(s.dir)
	return err
}

// keys are those whose files are below a prefix. The lock is held.
func (s *Store) keys(prefix string) (keys []string, err error) {
	dir, key := s.base(prefix)
	seen := 0
	var walk func(dir, key string) error
	walk = func(dir, key string) error {
		found, err := os.ReadDir(dir)
		if err != nil {
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) && key != "" {
				return s.present()
			}
			return err
		}
		if seen += len(found); seen > maxFiles {
			return fmt.Errorf("more than %d files", maxFiles)
		}
		for _, entry := range found {
			name := entry.Name()
			folder := entry.IsDir()
			if strings.HasPrefix(name, ".") || !folder && !strings.HasSuffix(name, suffix) {
				continue // people's: an editor's, a README
			}
			element, ok := elementOf(name, folder)
			below := key + element
			if folder {
				below += "/"
			}
			inside, above := strings.HasPrefix(below, prefix), folder && strings.HasPrefix(prefix, below)
			if !inside && !above {
				continue
			}
			if err := kv.CheckKey(strings.TrimSuffix(below, "/")); !ok || err != nil {
				return &os.PathError{Op: "look at", Path: filepath.Join(dir, name), Err: errors.New("no key is called so: rename it, or take it away")}
			}
			if !folder {
				keys = append(keys, below)
				continue
			}
			if err := walk(filepath.Join(dir, name), below); err != nil {
				return err
			}
		}
		return nil
	}
	err = walk(dir, key)
	return keys, err
}

// writeNew writes a file that was not there, so that it is on the disk.
func writeNew(path string, content []byte, changed time.Time) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	defer func() {
		if closed := file.Close(); err == nil {
			err = closed
		}
		if err == nil && !changed.IsZero() {
			err = os.Chtimes(path, changed, changed)
		}
	}()
	if _, err := file.Write(content); err != nil {
		return err
	}
	return file.Sync()
}

// replace writes one of the store's own files, so that it is old or new, never half.
func (s *Store) replace(name string, content []byte) error {
	fresh := s.own(name + ".new")
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := writeNew(fresh, content, time.Time{}); err != nil {
		return err
	}
	return os.Rename(fresh, s.own(name))
}

// syncDir has what a folder's files are called be on the disk.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := dir.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}
