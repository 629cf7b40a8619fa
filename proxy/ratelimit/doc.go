// Package ratelimit lets a number of RPCs through in a time, and says when there is
// room again. It makes nobody wait, and does not know what the keys are.
//
//	limit.go   how many there may be
//	bucket.go  one bucket: the generic cell rate algorithm
//	keys.go    a bucket for each key, in bounded memory
//	limiter.go what an RPC meets
package ratelimit
