// Package relay proves that an RPC goes through Pillion unchanged: what the app
// sees of the client, and the client of the app, is what they would see without
// it. Every test runs without Pillion too. It has tests only.
package relay
