package hpack

import "errors"

// ErrListTooLarge says that a block was sound but its list of fields is beyond the limit that
// Decode was given. The decoder stays usable; the stream is to be refused.
var ErrListTooLarge = errors.New("hpack: the header list is larger than allowed")

// The errors of a block that cannot be decoded. Each means that the two ends' tables no longer
// agree, so the connection must end with COMPRESSION_ERROR (RFC 9113 section 4.3).
var (
	errTruncated      = errors.New("hpack: the header block ends in the middle of a field")
	errInteger        = errors.New("hpack: an integer has more octets than allowed")
	errIndex          = errors.New("hpack: a field refers to a table entry that does not exist")
	errHuffman        = errors.New("hpack: a string is not valid Huffman code")
	errUpdatePlace    = errors.New("hpack: a table size update stands after a field")
	errUpdateCount    = errors.New("hpack: a header block starts with more than two table size updates")
	errUpdateTooLarge = errors.New("hpack: a table size update is above the size we allow")
)
