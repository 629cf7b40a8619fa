package dirkv

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/pillion-proxy/pillion/control/kv"
)

// meta is what the store knows beside the values.
type meta struct {
	// Time is the last commit's, in Unix nanoseconds: each has one that is later.
	Time int64 `json:"time"`
	// Owned are keys that go with a session, by its ID.
	Owned map[string]string `json:"owned,omitempty"`
	// Delays are the keys that cannot be locked until then, in Unix nanoseconds.
	Delays map[string]int64 `json:"delays,omitempty"`
}

// journal is a commit that is done, but may not have got to all files.
type journal struct {
	// Files are where the new values are, by key; "" is a deletion.
	Files map[string]string `json:"files"`
	Meta  meta              `json:"meta"`
}

// changes are Files, also where there is no journal.
func (j *journal) changes() map[string]string {
	if j == nil {
		return nil
	}
	return j.Files
}

// load reads one of the store's own files, and says whether it is there.
func (s *Store) load(name string, into any) (bool, error) {
	content, _, err := readFile(s.own(name), maxOwn)
	if errors.Is(err, os.ErrNotExist) {
		return false, s.present()
	}
	if err == nil {
		decoder := json.NewDecoder(bytes.NewReader(content))
		decoder.DisallowUnknownFields()
		err = decoder.Decode(into)
	}
	if err != nil {
		return false, fmt.Errorf("%s is not the store's: %w: take it away while nothing uses the folder", filepath.Join(ownDir, name), err)
	}
	return true, nil
}

// pending is the commit that a process left behind, nil if none. The lock is held.
func (s *Store) pending() (*journal, error) {
	var found journal
	ok, err := s.load(journalFile, &found)
	if !ok || err != nil {
		return nil, err
	}
	for key, file := range found.Files {
		if err := kv.CheckKey(key); err != nil || file != filepath.Base(file) && file != "" {
			return nil, fmt.Errorf("%s is not the store's: key %q in file %q: take it away while nothing uses the folder", filepath.Join(ownDir, journalFile), key, file)
		}
	}
	return &found, nil
}

// finish does what a process left to do, and clears away what it has not got to do. The
// lock is held exclusively.
func (s *Store) finish() error {
	left, err := s.pending()
	if err != nil {
		return err
	}
	if left != nil {
		return s.apply(left)
	}
	stray, err := os.ReadDir(s.own(newDir))
	if errors.Is(err, os.ErrNotExist) {
		err = s.prepare()
	}
	for _, file := range stray {
		if err := os.RemoveAll(s.own(filepath.Join(newDir, file.Name()))); err != nil {
			return err
		}
	}
	return err
}

// apply does what a journal says, or what is left of that.
func (s *Store) apply(j *journal) error {
	for key, file := range j.Files {
		path, err := s.path(key)
		if err != nil {
			return err
		}
		if err := s.step(); err != nil {
			return err
		}
		if file == "" {
			err = os.Remove(path)
		} else if err = os.MkdirAll(filepath.Dir(path), folderMode); err == nil {
			err = os.Rename(s.own(filepath.Join(newDir, file)), path)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	content, err := json.Marshal(j.Meta)
	if err != nil {
		return err
	}
	if err := s.step(); err != nil {
		return err
	}
	if err := s.replace(metaFile, content); err != nil {
		return err
	}
	if err := s.step(); err != nil {
		return err
	}
	return os.Remove(s.own(journalFile))
}

// change is a commit that is being made. The lock is held exclusively, and no journal is
// there.
type change struct {
	store *Store
	meta  meta
	ops   []kv.Op
	// dirty says that meta has to be written whatever becomes of the ops.
	dirty bool
}

func (s *Store) begin() (*change, error) {
	c := &change{store: s}
	_, err := s.load(metaFile, &c.meta)
	if c.meta.Owned == nil {
		c.meta.Owned = map[string]string{}
	}
	if c.meta.Delays == nil {
		c.meta.Delays = map[string]int64{}
	}
	for key, session := range c.meta.Owned {
		if bad := kv.CheckKey(key); bad != nil || session != filepath.Base(session) {
			return nil, fmt.Errorf("%s is not the store's: key %q of session %q: take it away while nothing uses the folder", filepath.Join(ownDir, metaFile), key, session)
		}
	}
	return c, err
}

// version is a key's, 0 where it is not there.
func (c *change) version(key string) (uint64, error) {
	entry, err := c.store.read(nil, key)
	if err != nil || entry == nil {
		return 0, err
	}
	return entry.Version, nil
}

// set has a key be written, or, by nil, deleted.
func (c *change) set(key string, value []byte) {
	c.ops = append(c.ops, kv.Op{Key: key, Value: value})
	if value == nil {
		c.disown(key)
	}
}

// own ties a key to a session.
func (c *change) own(key, session string) {
	if c.meta.Owned[key] != session {
		c.meta.Owned[key], c.dirty = session, true
	}
}

func (c *change) disown(key string) {
	if _, ok := c.meta.Owned[key]; ok {
		delete(c.meta.Owned, key)
		c.dirty = true
	}
}

// do does it.
func (c *change) do() error {
	s, now := c.store, time.Now()
	for key, until := range c.meta.Delays {
		if until <= now.UnixNano() || until > now.Add(maxLockDelay).UnixNano() {
			delete(c.meta.Delays, key)
		}
	}
	at := max(now.UnixNano(), c.meta.Time+1)
	files := map[string]string{}
	for n, op := range c.ops {
		path, err := s.path(op.Key)
		if err != nil {
			return err
		}
		old, _, err := readFile(path, kv.MaxValue)
		there := err == nil
		if there && op.Value != nil && bytes.Equal(old, op.Value) || errors.Is(err, os.ErrNotExist) && op.Value == nil {
			continue
		}
		if err := replaceable(path); err != nil {
			return err
		}
		if op.Value == nil {
			files[op.Key] = ""
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), folderMode); err != nil {
			return err
		}
		if err := s.step(); err != nil {
			return err
		}
		files[op.Key] = strconv.Itoa(n)
		if err := writeNew(s.own(filepath.Join(newDir, files[op.Key])), op.Value, time.Unix(0, at)); err != nil {
			return err
		}
	}
	if len(files) == 0 && !c.dirty {
		return nil
	}
	c.meta.Time = at
	made := &journal{Files: files, Meta: c.meta}
	content, err := json.Marshal(made)
	if err != nil {
		return err
	}
	if err := s.step(); err != nil {
		return err
	}
	if err := s.replace(journalFile, content); err != nil {
		return err
	}
	if err := syncDir(s.own("")); err != nil {
		return err
	}
	return s.apply(made)
}

// replaceable says whether a file can be put where one is, or nothing.
func replaceable(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir():
		return &os.PathError{Op: "replace", Path: path, Err: errors.New("it is a folder")}
	}
	return nil
}

// keysOf are what a session owns.
func (c *change) keysOf(session string) (keys []string) {
	for key, owner := range c.meta.Owned {
		if owner == session {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}
