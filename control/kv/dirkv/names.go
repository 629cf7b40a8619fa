package dirkv

import (
	"fmt"
	"path/filepath"
	"strings"
)

const (
	// ownDir is what belongs to the store alone. No key's file begins with a dot.
	ownDir      = ".kv"
	lockFile    = "lock"
	turnFile    = "turn"
	journalFile = "journal.json"
	metaFile    = "meta.json"
	newDir      = "new"
	sessionsDir = "sessions"

	// suffix ends the names of files that hold values, and of no folder: so "a" and "a/b"
	// may both be keys.
	suffix = ".json"
	// maxName is how long a file's name may be.
	maxName = 255
)

func (s *Store) own(name string) string { return filepath.Join(s.dir, ownDir, name) }

// escape makes an element of a key fit for a file's or folder's name: no dot begins it.
func escape(element string) string {
	element = strings.ReplaceAll(element, "%", "%25")
	if rest, ok := strings.CutPrefix(element, "."); ok {
		element = "%2E" + rest
	}
	return element
}

// folderName is what an element of a key is called that others are below.
func folderName(element string) string {
	name := escape(element)
	if rest, ok := strings.CutSuffix(name, suffix); ok {
		name = rest + "%2E" + suffix[1:]
	}
	return name
}

// elementOf is the element that a folder's or file's name stands for, if it stands for one.
func elementOf(name string, folder bool) (string, bool) {
	if !folder {
		name = strings.TrimSuffix(name, suffix)
	}
	element := strings.NewReplacer("%25", "%", "%2E", ".").Replace(name)
	if folder {
		return element, folderName(element) == name
	}
	return element, escape(element) == name
}

// path is the file that holds a key's value.
func (s *Store) path(key string) (string, error) {
	elements := strings.Split(key, "/")
	for i, element := range elements {
		if i < len(elements)-1 {
			elements[i] = folderName(element)
		} else {
			elements[i] = escape(element) + suffix
		}
		if len(elements[i]) > maxName {
			return "", fmt.Errorf("key %q is too long for the name of a file", key)
		}
	}
	return filepath.Join(s.dir, filepath.Join(elements...)), nil
}

// base is the folder that all keys of a prefix are below, and the key of that folder, ""
// or with a slash at its end.
func (s *Store) base(prefix string) (dir, key string) {
	key = prefix[:strings.LastIndex(prefix, "/")+1]
	dir = s.dir
	for element := range strings.SplitSeq(strings.TrimSuffix(key, "/"), "/") {
		if element != "" {
			dir = filepath.Join(dir, folderName(element))
		}
	}
	return dir, key
}
