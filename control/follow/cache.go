package follow

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/google/renameio/v2"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

const (
	// cacheVersion is that of the files' content. Files of another are not read.
	cacheVersion = 1
	cacheSuffix  = ".control.json"
	// maxCacheFile bounds a file that is read, and written.
	maxCacheFile = 64 << 20
	// maxCacheFiles bounds the files; beyond it nothing new is kept.
	maxCacheFiles = 10_000
)

// Cache keeps what held last of each service in a folder, a file for each, so that a
// restart while the store is away has something to go on with. A nil one keeps nothing.
type Cache struct {
	dir    string
	logger *slog.Logger

	mu    sync.Mutex
	saved map[string]*kept
	said  string // the last problem that was logged
}

// NewCache returns a cache in a folder, which is made when it is needed.
func NewCache(dir string, logger *slog.Logger) *Cache {
	return &Cache{dir: dir, logger: logger, saved: map[string]*kept{}}
}

// kept is what is kept of a service. It never changes.
type kept struct {
	documents []*controlv1.Document
	states    []*controlv1.RunState
}

func (k *kept) equal(other *kept) bool {
	return other != nil && slices.Equal(k.documents, other.documents) &&
		slices.EqualFunc(k.states, other.states, func(a, b *controlv1.RunState) bool { return proto.Equal(a, b) })
}

// cacheFile is the content of a file.
type cacheFile struct {
	Version   int               `json:"version"`
	Service   string            `json:"service"`
	Documents []cacheDocument   `json:"documents"`
	States    []json.RawMessage `json:"states,omitempty"`
}

type cacheDocument struct {
	Kind  control.Kind    `json:"kind"`
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
}

func (c *Cache) path(service string) string {
	sum := sha256.Sum256([]byte(service))
	name := service
	if name == AllServices {
		name = "all"
	}
	return filepath.Join(c.dir, fmt.Sprintf("%.64s-%s%s", name, hex.EncodeToString(sum[:8]), cacheSuffix))
}

// keep keeps what holds of a service now, if that is not what is kept already.
func (c *Cache) keep(service string, k *kept) {
	if c == nil || k == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.equal(c.saved[service]) {
		return
	}
	if err := c.save(service, k); err != nil {
		c.trouble(fmt.Sprintf("what the store says of service %q cannot be kept for a restart: %v", service, err))
		return
	}
	c.saved[service] = k
	c.said = ""
}

// trouble logs a problem that is not the last one. c.mu is held.
func (c *Cache) trouble(problem string) {
	if problem != c.said {
		c.said = problem
		c.logger.Warn(problem)
	}
}

// encode returns the content of a service's file.
func encode(service string, k *kept) ([]byte, error) {
	// That there is nothing is worth knowing too.
	file := cacheFile{Version: cacheVersion, Service: service}
	for _, doc := range k.documents {
		data, err := protojson.Marshal(doc)
		if err != nil {
			return nil, err
		}
		key, _ := documents.IDOf(doc)
		file.Documents = append(file.Documents, cacheDocument{key.Kind, key.Name, data})
	}
	for _, state := range k.states {
		data, err := protojson.Marshal(state)
		if err != nil {
			return nil, err
		}
		file.States = append(file.States, data)
	}
	content, err := json.Marshal(file)
	if err == nil && len(content) > maxCacheFile {
		err = fmt.Errorf("it takes %d bytes, more than the %d that are kept", len(content), maxCacheFile)
	}
	return content, err
}

func (c *Cache) save(service string, k *kept) error {
	path := c.path(service)
	content, err := encode(service, k)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	if c.saved[service] == nil {
		if there, err := filepath.Glob(filepath.Join(c.dir, "*"+cacheSuffix)); err == nil && len(there) >= maxCacheFiles {
			return fmt.Errorf("%s holds %d files already", c.dir, len(there))
		}
	}
	return renameio.WriteFile(path, content, 0o600)
}

// restored is what held of a service, documents that are still good alone.
type restored struct {
	docs   map[documents.ID]*controlv1.Document
	states []*controlv1.RunState
}

// load returns what was kept of a service; nil: nothing was.
func (c *Cache) load(service string) *restored {
	if c == nil {
		return nil
	}
	of, err := c.read(service)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.trouble(fmt.Sprintf("what was kept of service %q cannot be read, and is not obeyed: %v", service, err))
	}
	return of
}

func (c *Cache) read(service string) (*restored, error) {
	f, err := os.Open(c.path(service))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, maxCacheFile+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxCacheFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", f.Name(), maxCacheFile)
	}
	of, err := decodeKept(service, content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return of, nil
}

// decodeKept reads the content of a service's file.
func decodeKept(service string, content []byte) (*restored, error) {
	var file cacheFile
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, err
	}
	if file.Version != cacheVersion || file.Service != service {
		return nil, fmt.Errorf("it is of version %d and service %q", file.Version, file.Service)
	}
	docs := make(map[documents.ID]*controlv1.Document, len(file.Documents))
	for _, one := range file.Documents {
		key := documents.ID{Kind: one.Kind, Name: one.Name}
		if doc, err := decode(service, key, one.Value); err == nil {
			docs[key] = doc
		}
	}
	var states []*controlv1.RunState
	for _, data := range file.States {
		state := &controlv1.RunState{}
		if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, state) == nil && state.GetService() == service &&
			slices.Contains(control.Kinds, control.Kind(state.GetKind())) {
			states = append(states, state)
		}
	}
	return &restored{docs, states}, nil
}
