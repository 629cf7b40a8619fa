package consul

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// chainFile is the content of a file that keeps what was known last of a service's
// configuration entries.
type chainFile struct {
	Version int             `json:"version"`
	Scope   cacheScope      `json:"scope"`
	Service string          `json:"service"`
	Saved   time.Time       `json:"saved"`
	Answer  json.RawMessage `json:"answer"` // Consul's, as it was
}

// saveChain keeps Consul's answer about a service's configuration entries.
func (c *cache) saveChain(name string, answer json.RawMessage) error {
	if c == nil {
		return nil
	}
	content, err := json.Marshal(chainFile{cacheVersion, c.scope, name, time.Now().UTC().Truncate(time.Second), answer})
	if err != nil {
		return err
	}
	if most := c.limits.CacheFileBytes; len(content) > most {
		return fmt.Errorf("they take %d bytes, more than the %d that are kept (registry.consul.max_cache_file_size)", len(content), most)
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	path := c.pathOf(name, chainSuffix)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := c.makeRoom(chainSuffix); err != nil {
			return err
		}
	}

	return replaceFile(path, content)
}

// loadChain reads what was kept of a service; nil: nothing. Whether it is a chain is not
// looked at.
func (c *cache) loadChain(name string) (json.RawMessage, error) {
	if c == nil {
		return nil, nil
	}
	path := c.pathOf(name, chainSuffix)
	content, err := readAtMost(path, int64(c.limits.CacheFileBytes))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var file chainFile
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
