package hpack

import "math"

// The bit patterns that a field, or a table size update, starts with (RFC 7541 section 6), and the
// bits of its first octet that are the integer's prefix.
const (
	patternIndexed      = 0x80
	patternIndexing     = 0x40 // literal with incremental indexing
	patternSizeUpdate   = 0x20
	patternNeverIndexed = 0x10
	patternNotIndexed   = 0x00

	maskIndexed    = 0x7f
	maskIndexing   = 0x3f
	maskSizeUpdate = 0x1f
	maskLiteral    = 0x0f // not indexed and never indexed

	flagHuffman = 0x80
	maskString  = 0x7f
)

// maxSizeUpdates is how many table size updates a block may start with (RFC 7541 section 4.2).
const maxSizeUpdates = 2

// Decoder decodes the header blocks that one peer sends, in order.
type Decoder struct {
	// Vet, if it is set, is asked once about each field that enters the dynamic table. What it says
	// stands in Field.Vetted each time that the field comes: with most requests, nearly all fields
	// come from there, and need not be looked through again. It must not keep the strings.
	Vet func(name, value string) bool

	table        dynamicTable
	allowedTable uint32
}

// NewDecoder returns a decoder for a peer to whom SETTINGS_HEADER_TABLE_SIZE says maxTableSize: a
// table size update above it is an error.
//
// As the RFC has it, the table starts at DefaultTableSize octets in any case: a peer may use that
// much until our SETTINGS reach it, and announces any other size by a table size update.
func NewDecoder(maxTableSize uint32) *Decoder {
	return &Decoder{table: dynamicTable{maxSize: DefaultTableSize}, allowedTable: maxTableSize}
}

// Decode decodes one whole header block and appends its fields to b.
//
// If the fields' sizes (RFC 9113 section 6.5.2) add up to more than maxListSize octets (0: no
// limit), the first field that is beyond it and all that follow are decoded, so that the dynamic
// table stays right, but not kept, and the error is ErrListTooLarge.
//
// Any other error is a COMPRESSION_ERROR of the connection (RFC 9113 section 4.3): the decoder must
// not be used again. Whatever the error, b has the fields up to there.
//
// p may be reused when Decode returns.
func (d *Decoder) Decode(p []byte, maxListSize uint32, b *Block) error {
	p, err := d.sizeUpdates(p)
	if err != nil {
		return err
	}
	list := listBudget{most: math.MaxUint64}
	if maxListSize != 0 {
		list.most = uint64(maxListSize)
	}
	list.left = list.most
	for len(p) > 0 {
		if p, err = d.indexed(p, &list, b); err != nil {
			return err
		}
		if len(p) == 0 {
			break
		}
		if p, err = d.literal(p, &list, b); err != nil {
			return err
		}
	}
	b.listed = list.taken()
	if list.exceeded {
		return ErrListTooLarge
	}
	return nil
}

// indexed decodes the indexed fields (RFC 7541 section 6.1) at the front of p, and returns what
// follows them.
func (d *Decoder) indexed(p []byte, list *listBudget, b *Block) (rest []byte, err error) {
	fields := b.Fields // kept in registers through the loop
	for len(p) > 0 && p[0]&patternIndexed != 0 {
		i := uint64(p[0] & maskIndexed)
		if i < maskIndexed {
			p = p[1:]
		} else if i, p, err = readInteger(p, maskIndexed); err != nil {
			break
		}
		e := d.entry(i)
		if e == nil {
			err = errIndex
			break
		}
		// Past the limit nothing is added: a block of one octet references must not grow.
		if list.exceeded || !list.take(uint64(e.size())) {
			continue
		}
		fields = growFields(fields)
		fields = fields[:len(fields)+1]
		f := &fields[len(fields)-1]
		f.Name, f.Value, f.Sensitive, f.Vetted = e.name, e.value, false, e.vetted
	}
	b.Fields = fields
	return p, err
}

// listBudget counts a list of fields against its limit.
type listBudget struct {
	most, left uint64
	exceeded   bool
}

// taken is the size of the list so far, and all of its limit once that is exceeded.
func (l *listBudget) taken() int { return int(l.most - l.left) }

// take reports whether a field of that size is within the limit, as all before it were.
func (l *listBudget) take(size uint64) bool {
	if size > l.left {
		l.left = 0 // no field is so small as to fit now
		l.exceeded = true
		return false
	}
	l.left -= size
	return true
}

// entry returns the table entry with that index, nil if there is none (RFC 7541 section 2.3.3).
func (d *Decoder) entry(i uint64) *entry {
	if i-1 < staticLen { // 0 wraps around
		return &staticTable[i]
	}
	if i == 0 {
		return nil
	}
	return d.table.at(i - staticLen - 1)
}

// sizeUpdates reads the table size updates at a block's start (RFC 7541 sections 4.2 and 6.3).
func (d *Decoder) sizeUpdates(p []byte) ([]byte, error) {
	for n := 0; len(p) > 0 && p[0]&^maskSizeUpdate == patternSizeUpdate; n++ {
		if n == maxSizeUpdates {
			return nil, errUpdateCount
		}
		size, rest, err := readInteger(p, maskSizeUpdate)
		if err != nil {
			return nil, err
		}
		if size > uint64(d.allowedTable) {
			return nil, errUpdateTooLarge
		}
		d.table.setMaxSize(uint32(size))
		p = rest
	}
	return p, nil
}

// literal decodes a field of which at least the value is a literal (RFC 7541 section 6.2), and
// returns what follows it.
func (d *Decoder) literal(p []byte, list *listBudget, b *Block) (rest []byte, err error) {
	mask, indexing := byte(maskLiteral), false
	switch c := p[0]; {
	case c&patternIndexing != 0:
		mask, indexing = maskIndexing, true
	case c&patternSizeUpdate != 0:
		return nil, errUpdatePlace
	}
	sensitive := !indexing && p[0]&patternNeverIndexed != 0

	i, p, err := readInteger(p, mask)
	if err != nil {
		return nil, err
	}
	var name, value literalString
	tableName := "" // where name is not a literal
	if i == 0 {
		if name, p, err = readString(p); err != nil {
			return nil, err
		}
	} else {
		e := d.entry(i)
		if e == nil {
			return nil, errIndex
		}
		tableName = e.name
	}
	if value, p, err = readString(p); err != nil {
		return nil, err
	}

	// Know the exact size first where decoding might cost memory for a field that is not kept.
	size := uint64(entryOverhead + len(tableName) + name.maxLen() + value.maxLen())
	if size > list.left {
		nameLen, nameOK := name.len()
		valueLen, valueOK := value.len()
		if !nameOK || !valueOK {
			return nil, errHuffman
		}
		size = uint64(entryOverhead + len(tableName) + nameLen + valueLen)
		if size > list.left {
			list.take(size)
			if !indexing {
				return p, nil
			}
			if !d.table.fits(size) {
				d.table.clear()
				return p, nil
			}
		}
	}

	f := entry{name: tableName}
	taken := len(b.arena)
	if i == 0 {
		if f.name, err = name.decode(b); err != nil {
			return nil, err
		}
	}
	if f.value, err = value.decode(b); err != nil {
		return nil, err
	}
	size = uint64(f.size())
	if indexing {
		if d.table.fits(size) {
			f = ownEntry(f.name, f.value, i-1 < staticLen)
			f.vetted = d.Vet != nil && d.Vet(f.name, f.value)
			b.untake(taken)
			d.table.add(f)
		} else {
			d.table.clear() // RFC 7541 section 4.4
		}
	}
	if list.take(size) {
		kept := b.next()
		kept.Name, kept.Value, kept.Sensitive, kept.Vetted = f.name, f.value, sensitive, f.vetted
	}
	return p, nil
}

// literalString is a string literal as it came (RFC 7541 section 5.2).
type literalString struct {
	octets  []byte
	huffman bool
}

// readString reads a string literal and returns what follows it.
func readString(p []byte) (literalString, []byte, error) {
	if len(p) == 0 {
		return literalString{}, nil, errTruncated
	}
	huffman := p[0]&flagHuffman != 0
	n, p, err := readInteger(p, maskString)
	if err != nil {
		return literalString{}, nil, err
	}
	if n > uint64(len(p)) {
		return literalString{}, nil, errTruncated
	}
	return literalString{p[:n], huffman}, p[n:], nil
}

// maxLen is how long the decoded string may be at most.
func (s literalString) maxLen() int {
	if s.huffman {
		return maxDecodedLen(len(s.octets))
	}
	return len(s.octets)
}

// len is how long the decoded string is; false if it is not valid.
func (s literalString) len() (int, bool) {
	if s.huffman {
		return huffmanLen(s.octets)
	}
	return len(s.octets), true
}

// decode decodes the string into the block's memory.
func (s literalString) decode(b *Block) (string, error) {
	room := b.reserve(s.maxLen())
	if !s.huffman {
		return b.take(copy(room, s.octets)), nil
	}
	n, ok := decodeHuffman(room, s.octets)
	if !ok {
		return "", errHuffman
	}
	return b.take(n), nil
}
