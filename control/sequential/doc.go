// Package sequential has statistical tests that may be looked at as often as one likes,
// after every RPC if need be, and stopped at any time, and whose risk of a false alarm
// still holds; with the plans for them, and beside them the classical fixed-horizon
// figures for reference. It knows nothing of canaries and experiments: it gets counts and
// moments, starts nothing and remembers nothing but what it was told.
//
// What the tests share: each keeps a number e, the evidence, of which the null hypothesis
// expects at most 1 at any time, however the time is chosen. By Ville's inequality (1939)
// it then reaches 1/alpha at any time at all with a chance of at most alpha. docs/experiments.md
// says more, with the sources.
//
//	Exceeds      do more than p0 of the RPCs fail?
//	Labels       do the canary's fail oftener than the stable version's?
//	Means        do two groups' means differ, and by how much?
//	SampleRatio  are units divided as the weights say?
//	Holm         corrects for several tests at once
//	Crossing     the power of Means, and so what to plan for
//	Detection    how many RPCs it takes until Exceeds or Labels find something
package sequential
