package configyaml

import (
	"fmt"
	"path/filepath"
	"time"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// The defaults of control, as the schema's comments document and explain them.
const (
	defaultRecordingSize  = 1000
	defaultRecordingOneIn = 100
	defaultRecordingAge   = time.Hour
)

// effectiveControl fills in what a sidecar has to do with the mesh's documents.
func effectiveControl(b *configv1.Bootstrap) {
	c, consul := b.Control, b.GetRegistry().GetConsul()
	setValue(&c.ConsulEntries, consul != nil)
	setText(&c.StateDir, consul.GetCacheDir())
	setValue(&c.Candidate, canBeReached(b.GetInbound()))
	r := block(&c.Recording)
	setValue(&r.Size, defaultRecordingSize)
	setValue(&r.OneIn, defaultRecordingOneIn)
	setDuration(&r.MaxAge, defaultRecordingAge)
}

// canBeReached says whether other sidecars have an address of an inbound.
func canBeReached(i *configv1.Inbound) bool {
	return i != nil && (i.GetAdvertise() != "" || !isSocket(i.GetListen()))
}

// checkControl checks that there is a place where the documents are, and that whatever
// is asked for can be done.
func checkControl(f *findings, b *configv1.Bootstrap) {
	c := b.GetControl()
	if c == nil {
		return
	}
	consul := b.GetRegistry().GetConsul() != nil
	if c.GetDir() == "" && !consul {
		f.addf("control", "has no place for the documents: write dir, or registry.consul for Consul's KV")
	}
	if c.GetConsulEntries() && !consul {
		f.addf("control.consul_entries", "needs Consul: write registry.consul, or false here")
	}
	if c.GetCandidate() && !canBeReached(b.GetInbound()) {
		f.addf("control.candidate", "needs an inbound that others can reach: write inbound with a host:port, or false here")
	}
	if c.GetDir() != "" && c.GetStateDir() != "" && filepath.Clean(c.GetDir()) == filepath.Clean(c.GetStateDir()) {
		f.addf("control.state_dir", "%s is the folder of the documents (control.dir): write another", c.GetStateDir())
	}
	names := unique{}
	for i, command := range c.GetCommands() {
		names.check(f, fmt.Sprintf("control.commands[%d].name", i), command.GetName())
		if len(command.GetRun()) > 0 && command.GetRun()[0] == "" {
			f.addf(fmt.Sprintf("control.commands[%d].run[0]", i), "is empty: write the program")
		}
	}
}
