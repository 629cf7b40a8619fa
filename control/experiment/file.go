package experiment

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/google/renameio/v2"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

const (
	// fileMagic begins a file, and has its version.
	fileMagic = "pillion experiment 1\n"
	// maxFile bounds a file in bytes, and maxFilePart a message in it.
	maxFile     = 1 << 30
	maxFilePart = 16 << 20
)

// staleAfter is how old a file must be to be removed by whoever does not know it.
const staleAfter = 90 * 24 * time.Hour

var fileLike = regexp.MustCompile(`^(counts|pool)-.*-[0-9a-f]{16}$`)

// errDamaged says that a file is not as it was written.
var errDamaged = errors.New("the file is damaged")

// fileName is where something of an experiment is kept, of one owner.
func fileName(dir, kind, experiment, owner string) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%.100s-%016x", kind, experiment, xxhash.Sum64String(owner+"\x00"+experiment)))
}

// sweep removes files that nobody has written for so long that their experiments must be
// over.
func sweep(dir string) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, f := range files {
		if info, err := f.Info(); err == nil && fileLike.MatchString(f.Name()) && time.Since(info.ModTime()) > staleAfter {
			_ = os.Remove(filepath.Join(dir, f.Name()))
		}
	}
}

// writeFile writes a file in one piece, or leaves the one that is there: a head, and as
// many parts as it says.
func writeFile(path string, head *meshv1.KeptExperiment, part func(i int) *meshv1.KeptSource) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	pending, err := renameio.NewPendingFile(path, renameio.WithPermissions(0o600))
	if err != nil {
		return err
	}
	defer func() { _ = pending.Cleanup() }()
	digest := xxhash.New()
	out := bufio.NewWriter(io.MultiWriter(pending, digest))
	if _, err := out.WriteString(fileMagic); err != nil {
		return err
	}
	if _, err := protodelim.MarshalTo(out, head); err != nil {
		return err
	}
	for i := range int(head.GetSources()) {
		if _, err := protodelim.MarshalTo(out, part(i)); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if err := binary.Write(pending, binary.BigEndian, digest.Sum64()); err != nil {
		return err
	}
	return pending.CloseAtomicallyReplace()
}

// readHead reads how a file begins, unchecked.
func readHead(path string) (*meshv1.KeptExperiment, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return head(bufio.NewReader(f))
}

// readFile reads a file. Parts are handed over while it is not yet known whether the file
// is damaged.
func readFile(path string, begin func(*meshv1.KeptExperiment) error, part func(*meshv1.KeptSource) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	const sum = 8
	if info.Size() < sum || info.Size() > maxFile {
		return fmt.Errorf("%w: it has %d bytes", errDamaged, info.Size())
	}
	digest := xxhash.New()
	in := bufio.NewReader(io.TeeReader(io.LimitReader(f, info.Size()-sum), digest))
	h, err := head(in)
	if err != nil {
		return err
	}
	if err := begin(h); err != nil {
		return err
	}
	for range h.GetSources() {
		p := &meshv1.KeptSource{}
		if err := parts.UnmarshalFrom(in, p); err != nil {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
		if err := part(p); err != nil {
			return err
		}
	}
	if n, _ := in.Discard(1); n > 0 {
		return fmt.Errorf("%w: it goes on behind its end", errDamaged)
	}
	var want uint64
	if err := binary.Read(f, binary.BigEndian, &want); err != nil || want != digest.Sum64() {
		return fmt.Errorf("%w: its sum is wrong", errDamaged)
	}
	return nil
}

var parts = protodelim.UnmarshalOptions{MaxSize: maxFilePart, UnmarshalOptions: proto.UnmarshalOptions{DiscardUnknown: true}}

func head(in *bufio.Reader) (*meshv1.KeptExperiment, error) {
	magic := make([]byte, len(fileMagic))
	if _, err := io.ReadFull(in, magic); err != nil || string(magic) != fileMagic {
		return nil, fmt.Errorf("%w: it does not begin as one of this version", errDamaged)
	}
	h := &meshv1.KeptExperiment{}
	if err := parts.UnmarshalFrom(in, h); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return h, nil
}
