package mtls

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
)

// talker makes a client's records of TLS 1.3 itself, as crypto/tls, which never updates
// its keys, does not. The suite is TLS_AES_128_GCM_SHA256.
type talker struct {
	t      testing.TB
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// newTalker takes the client's secret from what a [tls.Config]'s KeyLogWriter was told.
func newTalker(t testing.TB, log string) *talker {
	t.Helper()
	_, rest, found := strings.Cut(log, "CLIENT_TRAFFIC_SECRET_0 ")
	fields := strings.Fields(rest)
	if !found || len(fields) < 2 {
		t.Fatalf("the log has no secret: %q", log)
	}
	secret, err := hex.DecodeString(fields[1])
	if err != nil || len(secret) != sha256.Size {
		t.Fatalf("the secret has %d octets: %v", len(secret), err)
	}
	k := &talker{t: t}
	k.use(secret)
	return k
}

// expand is HKDF-Expand-Label (RFC 8446 section 7.1) without a context.
func (k *talker) expand(secret []byte, label string, size int) []byte {
	k.t.Helper()
	info := binary.BigEndian.AppendUint16(nil, uint16(size))
	info = append(info, byte(len("tls13 ")+len(label)))
	info = append(info, "tls13 "+label...)
	key, err := hkdf.Expand(sha256.New, secret, string(append(info, 0)), size)
	if err != nil {
		k.t.Fatal(err)
	}
	return key
}

func (k *talker) use(secret []byte) {
	block, err := aes.NewCipher(k.expand(secret, "key", 16))
	if err != nil {
		k.t.Fatal(err)
	}
	if k.aead, err = cipher.NewGCM(block); err != nil {
		k.t.Fatal(err)
	}
	k.secret, k.iv, k.seq = secret, k.expand(secret, "iv", 12), 0
}

// record returns a record of that type.
func (k *talker) record(typ byte, data []byte) []byte {
	inner := append(bytes.Clone(data), typ)
	record := []byte{23, 3, 3, 0, 0}
	binary.BigEndian.PutUint16(record[3:], uint16(len(inner)+k.aead.Overhead()))
	nonce := bytes.Clone(k.iv)
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^k.seq)
	k.seq++
	return k.aead.Seal(record, nonce, inner, record)
}

// data returns a record of application data.
func (k *talker) data(p string) []byte { return k.record(23, []byte(p)) }

// update returns a KeyUpdate (RFC 8446 section 4.6.3), and uses the next keys from then
// on.
func (k *talker) update(answer bool) []byte {
	message := []byte{24, 0, 0, 1, 0}
	if answer {
		message[4] = 1
	}
	record := k.record(22, message)
	k.use(k.expand(k.secret, "traffic upd", sha256.Size))
	return record
}
