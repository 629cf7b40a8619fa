package consul

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// answerFile is the content of a file that keeps what Consul answered last about a
// service: its compiled chain, or its service-defaults.
type answerFile struct {
	Version int             `json:"version"`
	Scope   cacheScope      `json:"scope"`
	Service string          `json:"service"`
	Saved   time.Time       `json:"saved"`
	Answer  json.RawMessage `json:"answer"` // Consul's, as it was
}

// saveAnswer keeps Consul's answer about a service, in a file of this suffix.
func (c *cache) saveAnswer(name, suffix string, answer json.RawMessage) error {
	if c == nil {
		return nil
	}
	content, err := json.Marshal(answerFile{cacheVersion, c.scope, name, time.Now().UTC().Truncate(time.Second), answer})
	if err != nil {
		return err
	}
	if most := c.limits.CacheFileBytes; len(content) > most {
		return fmt.Errorf("it takes %d bytes, more than the %d that are kept (registry.consul.max_cache_file_size)", len(content), most)
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	path := c.pathOf(name, suffix)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := c.makeRoom(suffix); err != nil {
			return err
		}
	}

	return replaceFile(path, content)
}

// loadAnswer reads what was kept of a service; nil: nothing. What it says is not looked at.
func (c *cache) loadAnswer(name, suffix string) (json.RawMessage, error) {
	if c == nil {
		return nil, nil
	}
	path := c.pathOf(name, suffix)
	content, err := readAtMost(path, int64(c.limits.CacheFileBytes))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var file answerFile
	if err == nil {
		err = json.Unmarshal(content, &file)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	case file.Version != cacheVersion:
		return nil, fmt.Errorf("%s: has version %d, not %d", path, file.Version, cacheVersion)
	case file.Scope != c.scope || file.Service != name:
		return nil, fmt.Errorf("%s: is about service %q of %+v", path, file.Service, file.Scope)
	}

	return file.Answer, nil
}
