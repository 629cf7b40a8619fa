package kv

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CheckKey says what is wrong with a key, in one line: it is UTF-8 without control
// characters, and between its slashes there is something, but not "." or "..".
func CheckKey(key string) error {
	if err := checkText(key); err != nil {
		return err
	}
	for element := range strings.SplitSeq(key, "/") {
		switch {
		case element == "", element == ".", element == "..":
			return fmt.Errorf("key %q: between its slashes may be anything but nothing, \".\" and \"..\"", key)
		case len(element) > MaxElement:
			return fmt.Errorf("key %q: %d bytes between two slashes, at most %d may be", key, len(element), MaxElement)
		}
	}
	return nil
}

// CheckPrefix says what is wrong with a prefix, in one line: no key can begin so. Any may
// begin as "" does.
func CheckPrefix(prefix string) error {
	if at := strings.LastIndex(prefix, "/"); at >= 0 {
		if err := CheckKey(prefix[:at]); err != nil {
			return err
		}
	}
	return checkText(prefix)
}

func checkText(key string) error {
	switch {
	case len(key) > MaxKey:
		return fmt.Errorf("key %.100q…: it has %d bytes, at most %d may be", key, len(key), MaxKey)
	case !utf8.ValidString(key), strings.ContainsFunc(key, unicode.IsControl):
		return fmt.Errorf("key %q: it may have no control characters, and is UTF-8", key)
	}
	return nil
}

// CheckValue says what is wrong with a value, in one line.
func CheckValue(key string, value []byte) error {
	if len(value) > MaxValue {
		return fmt.Errorf("key %q: the value has %d bytes, at most %d may be", key, len(value), MaxValue)
	}
	return nil
}

// CheckOps says what is wrong with what a Commit is to do, in one line.
func CheckOps(ops []Op) error {
	if len(ops) == 0 {
		return errors.New("nothing to commit")
	}
	if len(ops) > MaxOps {
		return fmt.Errorf("%d changes at once, at most %d may be: do it in parts", len(ops), MaxOps)
	}
	seen, size := make(map[string]bool, len(ops)), 0
	for _, op := range ops {
		if err := CheckKey(op.Key); err != nil {
			return err
		}
		if err := CheckValue(op.Key, op.Value); err != nil {
			return err
		}
		if op.Holder != "" && (op.Value != nil || op.Version != 0 || op.Any) {
			return fmt.Errorf("key %q cannot be changed where it is to be held", op.Key)
		}
		if seen[op.Key] {
			return fmt.Errorf("key %q stands twice in one commit", op.Key)
		}
		seen[op.Key] = true
		size += len(op.Key) + len(op.Value)
	}
	if len(ops) > 1 && size > MaxCommit {
		return fmt.Errorf("%d bytes to be written at once, at most %d may be: do it in parts", size, MaxCommit)
	}
	return nil
}
