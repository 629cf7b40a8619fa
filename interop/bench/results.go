package main

// metric is one kind of figure.
type metric string

const (
	// cpuPerRPC is in microseconds.
	cpuPerRPC metric = "cpu"
	// rpcPerSecond is what a load without a rate reaches.
	rpcPerSecond metric = "rps"
	// ownP50 and ownP99 are latencies in microseconds at half of what the
	// proxy itself reached in the same round.
	ownP50 metric = "own p50"
	ownP99 metric = "own p99"
	// sameP50 and sameP99 are latencies in microseconds at the same rate for
	// all, sameRate.
	sameP50  metric = "same p50"
	sameP99  metric = "same p99"
	sameRate metric = "same rate"
	// bytesPerSecond is DATA that reached the client.
	bytesPerSecond metric = "bytes"
	// cpuPerGiB is in seconds.
	cpuPerGiB metric = "cpu per GiB"
	// cpuShare is how many cores a proxy keeps busy.
	cpuShare metric = "cpu share"
	// bytesEach is resident memory for each connection or stream.
	bytesEach metric = "bytes each"
	// idleRSS and peakRSS are in bytes.
	idleRSS metric = "idle rss"
	peakRSS metric = "peak rss"
	// handshakesPerCore is how many a server makes in a second of CPU time.
	handshakesPerCore metric = "handshakes per core"
	// failedRuns has an entry for each run in which requests failed.
	failedRuns metric = "failed runs"
	// couldNot has an entry for each run that was beyond the proxy.
	couldNot metric = "could not"
	// liveConns are the connections to instances.
	liveConns metric = "live connections"
)

// scene is what was going on when a figure was taken: a shape's name, or one of
// these.
type scene string

const (
	sceneMemory    scene = "memory"
	sceneStreaming scene = "streaming"
	sceneBulkPaced scene = "bulk, paced"
	sceneBulkFull  scene = "bulk, as fast as it goes"
	sceneShaking   scene = "handshakes"
)

func (s shape) scene() scene { return scene(s.String()) }

// key says which figure of whom a series is.
type key struct {
	setting string
	subject string
	scene   scene
	metric  metric
}

// results are the figures of a run: for each key, one per round.
type results map[key][]float64

func (r results) add(k key, value float64) { r[k] = append(r[k], value) }

// of returns a series.
func (r results) of(setting, subject string, s scene, m metric) []float64 {
	return r[key{setting, subject, s, m}]
}
