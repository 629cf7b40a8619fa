// Package outlier finds the instances of a service that fail more than the others,
// and has them left alone for a while (gRFC A50, and failures in a row). It does not
// know what an instance is, where outcomes come from, or what becomes of one that is
// left alone.
package outlier
