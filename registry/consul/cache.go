package consul

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pillion-proxy/pillion/registry"
)

const (
	// cacheVersion is that of the files' content. Files of another are not read.
	cacheVersion = 1
	cacheSuffix  = ".consul.json"
	chainSuffix  = ".entries.json"
	ownSuffix    = ".defaults.json"
)

// cache keeps what was known last about each service on disk, a file each, so
// that a restart while Consul is away has something to go on with. A nil cache
// keeps nothing.
type cache struct {
	dir string
	// scope tells what the names mean: the same folder may serve sidecars of
	// other namespaces.
	scope cacheScope
	// limits must have been through withDefaults.
	limits Limits
}

type cacheScope struct {
	Datacenter string `json:"datacenter,omitempty"`
	Namespace  string `json:"namespace,omitempty"`
	Partition  string `json:"partition,omitempty"`
}

// cacheFile is the content of a file.
type cacheFile struct {
	Version   int             `json:"version"`
	Scope     cacheScope      `json:"scope"`
	Service   string          `json:"service"`
	Saved     time.Time       `json:"saved"`
	GRPC      []string        `json:"grpc,omitempty"`
	Endpoints []cacheEndpoint `json:"endpoints"`
}

type cacheEndpoint struct {
	ID      string            `json:"id"`
	Address string            `json:"address"`
	Weight  uint32            `json:"weight"`
	Meta    map[string]string `json:"meta,omitempty"`
	Tags    []string          `json:"tags,omitempty"`

	Security   registry.Security `json:"security,omitempty"`
	Identities []string          `json:"identities,omitempty"`
	ServerName string            `json:"server_name,omitempty"`
}

// path is a service's file. Its name tells a person which service it is for, and
// a hash tells it from all others.
func (c *cache) path(service string) string { return c.pathOf(service, cacheSuffix) }

func (c *cache) pathOf(service, suffix string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{c.scope.Datacenter, c.scope.Namespace, c.scope.Partition, service}, "\x00")))

	return filepath.Join(c.dir, fmt.Sprintf("%.64s-%s%s", service, hex.EncodeToString(sum[:8]), suffix))
}

// save writes a service's file, or removes it where there is no such service.
func (c *cache) save(name string, service *registry.Service) error {
	if c == nil {
		return nil
	}
	path := c.path(name)
	if service == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}

		return nil
	}

	content, err := encodeCache(&c.limits, c.scope, name, service, time.Now())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := c.makeRoom(cacheSuffix); err != nil {
			return err
		}
	}

	return replaceFile(path, content)
}

// load reads a service's file. It is false where there is none.
func (c *cache) load(name string) (*registry.Service, bool, error) {
	if c == nil {
		return nil, false, nil
	}
	path := c.path(name)
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = file.Close() }()

	content, err := io.ReadAll(io.LimitReader(file, int64(c.limits.CacheFileBytes)+1))
	if err != nil {
		return nil, false, err
	}
	service, err := decodeCache(&c.limits, c.scope, name, content)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", path, err)
	}

	return service, true, nil
}

func encodeCache(limits *Limits, scope cacheScope, name string, service *registry.Service, now time.Time) ([]byte, error) {
	file := cacheFile{
		Version: cacheVersion, Scope: scope, Service: name, Saved: now.UTC().Truncate(time.Second),
		GRPC: service.GRPC, Endpoints: make([]cacheEndpoint, 0, len(service.Endpoints)),
	}
	for _, endpoint := range service.Endpoints {
		file.Endpoints = append(file.Endpoints, cacheEndpoint(endpoint))
	}
	content, err := json.Marshal(file)
	if err != nil {
		return nil, err
	}
	if most := limits.CacheFileBytes; len(content) > most {
		return nil, fmt.Errorf("service %q takes %d bytes, more than the %d that are kept (registry.consul.max_cache_file_size)", name, len(content), most)
	}

	return content, nil
}

// decodeCache reads a file's content and believes nothing of it unchecked.
func decodeCache(limits *Limits, scope cacheScope, name string, content []byte) (*registry.Service, error) {
	if most := limits.CacheFileBytes; len(content) > most {
		return nil, fmt.Errorf("is longer than %d bytes", most)
	}
	var file cacheFile
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, err
	}
	switch {
	case file.Version != cacheVersion:
		return nil, fmt.Errorf("has version %d, not %d", file.Version, cacheVersion)
	case file.Scope != scope || file.Service != name:
		return nil, fmt.Errorf("is about service %q of %+v", file.Service, file.Scope)
	case len(file.Endpoints) > limits.Instances:
		return nil, fmt.Errorf("has %d endpoints, more than %d", len(file.Endpoints), limits.Instances)
	}

	service := &registry.Service{Name: name}
	ids := map[string]bool{}
	for _, kept := range file.Endpoints {
		if kept.ID == "" || ids[kept.ID] {
			return nil, fmt.Errorf("has two endpoints with the id %q, or one without", kept.ID)
		}
		ids[kept.ID] = true
		if _, _, err := registry.ParseAddress(kept.Address); err != nil {
			return nil, err
		}
		if err := kept.checkSecurity(); err != nil {
			return nil, fmt.Errorf("endpoint %q: %w", kept.ID, err)
		}
		kept.Weight = min(max(1, kept.Weight), 65535)
		service.Endpoints = append(service.Endpoints, registry.Endpoint(kept))
	}
	slices.SortFunc(service.Endpoints, func(a, b registry.Endpoint) int { return strings.Compare(a.ID, b.ID) })
	for _, grpc := range file.GRPC {
		if isGRPCName(grpc) {
			service.GRPC = append(service.GRPC, grpc)
		}
	}
	slices.Sort(service.GRPC)
	service.GRPC = slices.Compact(service.GRPC)

	return service, nil
}

// maxIdentities bounds an endpoint's identities, maxIdentity each, in bytes.
const (
	maxIdentities = 16
	maxIdentity   = 2048
)

// checkSecurity checks what decides whom we take for whom.
func (e *cacheEndpoint) checkSecurity() error {
	if e.Security > registry.SecurityMTLS || len(e.Identities) > maxIdentities || len(e.ServerName) > maxIdentity {
		return errors.New("its security makes no sense")
	}
	for _, id := range e.Identities {
		if !strings.HasPrefix(id, "spiffe://") || len(id) > maxIdentity {
			return fmt.Errorf("identity %.100q: want a SPIFFE ID", id)
		}
	}

	return nil
}

// replaceFile writes a file so that a reader, or a crash, finds the old content
// or the new, never half of it.
func replaceFile(path string, content []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".tmp-*"+filepath.Ext(strings.TrimSuffix(path, ".json"))+".json")
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
	}

	return err
}

// makeRoom removes the oldest files, and what an interrupted write left behind,
// so that there is room for one more with this suffix.
func (c *cache) makeRoom(suffix string) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	type kept struct {
		name     string
		modified time.Time
	}
	var files []kept
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), suffix) {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			continue // gone meanwhile: others may share the folder
		}
		if strings.HasPrefix(entry.Name(), ".tmp-") && time.Since(info.ModTime()) > time.Hour {
			_ = os.Remove(filepath.Join(c.dir, entry.Name()))

			continue
		}
		files = append(files, kept{entry.Name(), info.ModTime()})
	}
	slices.SortFunc(files, func(a, b kept) int { return a.modified.Compare(b.modified) })
	for len(files) >= c.limits.CachedServices {
		if err := os.Remove(filepath.Join(c.dir, files[0].name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		files = files[1:]
	}

	return nil
}
