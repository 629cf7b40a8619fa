package file

import (
	"slices"
	"testing"

	"github.com/pillion-proxy/pillion/proto/configyaml"
	"github.com/pillion-proxy/pillion/registry"
)

// FuzzServices: whatever mesh file is valid, what is handed over of it can be used.
func FuzzServices(f *testing.F) {
	f.Add([]byte("services: {greeter: {endpoints: [{address: \"127.0.0.1:1\"}, {address: \"unix:///a\", weight: 7}], grpc: [a.B]}}"))
	f.Add([]byte("services: {a: {}, b: {endpoints: []}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		mesh, err := configyaml.ParseMesh("mesh.yaml", data)
		if err != nil {
			return
		}
		for _, s := range Services(mesh) {
			if s.Name == "" || s.Stale {
				t.Fatalf("%+v", s)
			}
			var ids []string
			for _, e := range s.Endpoints {
				if _, _, err := registry.ParseAddress(e.Address); err != nil || e.Weight < 1 || slices.Contains(ids, e.ID) {
					t.Fatalf("%+v (%v)", s, err)
				}
				ids = append(ids, e.ID)
			}
		}
	})
}
