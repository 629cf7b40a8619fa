package configyaml

import (
	"testing"

	"buf.build/go/protoyaml"
	"google.golang.org/protobuf/proto"
)

// FuzzBootstrapRoundTrip and FuzzMeshRoundTrip write down what was read, and read it
// again: an effective configuration, as /config shows it, is one that can be used.
func FuzzBootstrapRoundTrip(f *testing.F) {
	for _, seed := range fuzzSeeds {
		f.Add([]byte(seed))
	}
	f.Add([]byte("outbound: {listen: \"127.0.0.1:1\"}\nregistry: {static: {upstreams: {a: {addresses: [\"b:1\"]}}}}\n"))
	f.Add([]byte("outbound: {listen: \"127.0.0.1:1\", default_timeout: 1.5s}\nregistry: {consul: {address: \"https://x:8501\"}}\nhttp2: {}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		read, err := parseBootstrap("/p.yaml", data)
		if err != nil {
			return
		}
		written := marshal(t, read)
		again, err := parseBootstrap("/p.yaml", written)
		if err != nil || !proto.Equal(read, again) {
			t.Fatalf("%v: %v\nbecame, by\n%s\n%v", err, read, written, again)
		}
	})
}

func FuzzMeshRoundTrip(f *testing.F) {
	for _, seed := range fuzzSeeds {
		f.Add([]byte(seed))
	}
	f.Add([]byte("services: {a: {endpoints: [{address: \"b:1\", weight: 3, meta: {version: v2}, tags: [x]}], grpc: [a.B]}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		read, err := ParseMesh("p.yaml", data)
		if err != nil {
			return
		}
		written := marshal(t, read)
		again, err := ParseMesh("p.yaml", written)
		if err != nil || !proto.Equal(read, again) {
			t.Fatalf("%v: %v\nbecame, by\n%s\n%v", err, read, written, again)
		}
	})
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	written, err := protoyaml.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return written
}
