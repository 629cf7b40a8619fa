// Package admission decides whether an RPC may begin now. It counts the RPCs
// under way and refuses those above a bound, and, where it is asked to, finds by
// itself how many an app can have at once without becoming slow. It does not
// answer the RPCs that it refuses, nor does it make any wait: a queue would only
// add to the time of those that are served late.
//
//	gate.go        what an RPC meets: the bound, then the limit
//	limiter.go     the RPCs that the app has not begun to answer, against a limit
//	stage.go       requests that are not complete, against a share of it
//	controller.go  what the limit should be: a state machine without concurrency
//	cohort.go      leaves those out that take too long to tell anything
//	samples.go     how long the app took
//	throttle.go    bounds attempts at other instances after a refusal
//
// # The limit
//
// It is a gradient, as Envoy's adaptive concurrency and Netflix's
// concurrency-limits have it: what the latency is without a queue, by what it is
// now. Where that is below 1 there is a queue, and the limit shrinks by as much;
// a headroom of its square root lets it grow again.
//
// The two differ in where the latency without a queue comes from. Gradient2 takes
// a long average, which under an overload that lasts becomes the overload's own:
// the limit drifts up, and the latency with it. Envoy measures, once a minute,
// with next to nothing let through meanwhile: right, but every healthy app
// refuses RPCs each minute. Here it is measured as Envoy does, but only where the
// limit is in force, and with the limit lowered no further than it takes for the
// queue to go: to what the app answers times its latency as known so far (Little's
// law), and to half at most. An app that is not pressed is measured as it goes, and
// never refuses for that.
//
// The limit does not change while less than half of it is used: the latency says
// nothing about a limit that nobody meets.
//
// # Requests that are not complete
//
// Headers cost a caller next to nothing, and the app does nothing for them: were they
// counted as RPCs, some twenty a second that are never followed by anything would keep
// all places. So an RPC counts from its first message on, and three quarters of the
// places at most are for those whose request has not ended: a unary method waits for
// that, too. What has only headers does not count. A quarter of the limit is handed to
// the app all the same, because some methods answer before they are asked anything;
// more than that would take the threads of apps that keep one for each RPC. The others
// are Early: they stay where they are until they are complete. For a unary RPC, whose
// message comes right behind its headers, that costs nothing, and nothing of it was
// seen by the app if it is refused then. After EarlyTime those are refused that still
// have no place.
//
// RPCs let in before they were complete count as soon as they are, even above the
// limit, by no more than their share; with a first message only while there is room
// in the share for those, and else they keep the place that they have. An app that leaves headers unanswered has its
// cohorts of them retired as well. Whoever completes those that were retired is asked
// for a place again, or they could be saved up for a single blow.
package admission
