package languages

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// MissingError says that a language's toolchain is not on this machine.
type MissingError struct {
	Language Language
	// Reason is what came of looking for it.
	Reason error
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("the toolchain of %s is not on this machine (%v): install %s", e.Language.Name, e.Reason, e.Language.Install)
}

func (e *MissingError) Unwrap() error { return e.Reason }

// Build makes a language's peer, unless the cache has it, and returns its folder
// and the version of the first of its tools. The cache's key is made of the
// sources, the schema, the steps and all tools' versions. The error is a [*MissingError] where the
// machine lacks the toolchain.
func Build(l Language, sources, cache string) (folder, version string, err error) {
	versions, err := toolchain(l)
	if err != nil {
		return "", "", &MissingError{l, err}
	}

	key, err := keyOf(l, sources, versions)
	if err != nil {
		return "", "", fmt.Errorf("key of the %s peer: %w", l.Name, err)
	}
	built := filepath.Join(cache, l.Name+"-"+key)
	folder = filepath.Join(built, l.Name)
	version, _, _ = strings.Cut(versions, "\n")
	if _, err := os.Stat(built); err == nil {
		return folder, version, nil
	}

	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", "", err
	}
	making, err := os.MkdirTemp(cache, ".making-")
	if err != nil {
		return "", "", err
	}
	defer func() { _ = os.RemoveAll(making) }()
	if err := makePeer(l, sources, making, cache); err != nil {
		return "", "", fmt.Errorf("build the %s peer: %w", l.Name, err)
	}

	// Another checkout may have been faster: then its result serves as well.
	if err := os.Rename(making, built); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", "", err
	}

	return folder, version, nil
}

func makePeer(l Language, sources, making, cache string) error {
	folder := filepath.Join(making, l.Name)
	if l.Build == nil {
		return run(sources, nil, "go", "build", "-o", filepath.Join(folder, "peer"), "./"+l.Name)
	}

	for _, part := range []string{l.Name, "proto"} {
		if err := os.CopyFS(filepath.Join(making, part), os.DirFS(filepath.Join(sources, part))); err != nil {
			return err
		}
	}
	for _, step := range l.Build {
		env := make([]string, len(step.Env))
		for i, entry := range step.Env {
			env[i] = strings.Replace(entry, sharedTarget, filepath.Join(cache, l.Name+"-shared"), 1)
		}
		if err := run(folder, env, step.Command...); err != nil {
			return err
		}
	}

	return nil
}

// toolchain asks for the versions, one to a line.
func toolchain(l Language) (string, error) {
	var versions strings.Builder
	for _, command := range l.Toolchain {
		out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("%s: %w", strings.Join(command, " "), err)
		}
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		versions.WriteString(first + "\n")
	}

	return versions.String(), nil
}

// keyOf is made of everything that a peer is built from.
func keyOf(l Language, sources, versions string) (string, error) {
	hash := sha256.New()
	fmt.Fprintf(hash, "%s\n%q\n", versions, l.Build)

	parts := []string{l.Name, "proto"}
	if l.Build == nil {
		parts = append(parts, "../go.mod", "../go.sum")
	}
	for _, part := range parts {
		err := filepath.WalkDir(filepath.Join(sources, part), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(sources, path)
			fmt.Fprintf(hash, "%s %d\n", name, len(text))
			hash.Write(text)

			return err
		})
		if err != nil {
			return "", err
		}
	}

	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

func run(folder string, env []string, command ...string) error {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, out)
	}

	return nil
}

// cacheFolder is where peers are kept for all checkouts: below PILLION_CACHE, or
// the user's cache.
func cacheFolder() (string, error) {
	cache := os.Getenv("PILLION_CACHE")
	if cache == "" {
		users, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("where is the cache? Set PILLION_CACHE: %w", err)
		}
		cache = filepath.Join(users, "pillion")
	}

	return filepath.Join(cache, "languages"), nil
}
