package configyaml

import (
	"path/filepath"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// resolvePaths makes the file paths of a bootstrap, which are relative to the
// folder that it is in, relative to the process's own.
func resolvePaths(b *configv1.Bootstrap, folder string) {
	resolve := func(path *string) {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(folder, *path)
		}
	}
	if file := b.GetRegistry().GetFile(); file != nil {
		resolve(&file.Path)
	}
	if files := b.GetPolicies(); files != nil {
		resolve(&files.Path)
	}
	if files := b.GetIdentity().GetFiles(); files != nil {
		resolve(&files.Certificate)
		resolve(&files.Key)
		resolve(&files.Roots)
		for domain, roots := range files.GetFederatedRoots() {
			resolve(&roots)
			files.FederatedRoots[domain] = roots
		}
	}
	if consul := b.GetIdentity().GetConsul(); consul != nil {
		resolve(&consul.TokenFile)
	}
	if dev := b.GetIdentity().GetDev(); dev != nil {
		resolve(&dev.Ca)
	}
	if consul := b.GetRegistry().GetConsul(); consul != nil {
		resolve(&consul.TokenFile)
		resolve(&consul.CacheDir)
	}
	if c := b.GetControl(); c != nil {
		resolve(&c.Dir)
		resolve(&c.StateDir)
	}
	if log := b.GetAccessLog(); log != nil && !IsStandardStream(log.GetPath()) {
		resolve(&log.Path)
	}
}

// IsStandardStream says whether an access log's path names no file, but the
// process's standard output or error.
func IsStandardStream(path string) bool { return path == "stdout" || path == "stderr" }
