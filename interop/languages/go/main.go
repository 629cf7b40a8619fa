// Command go is the peer that is written with grpc-go: a server and a client of
// the service in ../proto. The client is the one that the others were made after.
package main

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

// What all peers have in common.
const (
	maxMessage = 8 << 20          // the largest message that is taken, in bytes
	keepalive  = 10 * time.Second // what grpc-go and grpc-java send at most
	patience   = 60 * time.Second // bounds what has to succeed
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "server" {
		fail(serve())
	}

	var c client
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	flags.StringVar(&c.target, "target", "", "where the server is, host:port")
	flags.StringVar(&c.authority, "authority", "", "the authority to send, where it is not the target")
	details := flags.String("details", "", "a google.rpc.Status, in hexadecimal")
	cases := flags.String("cases", "", "what to try, separated by commas")
	idle := flags.Int("idle", 0, "how long the case keepalive is silent, in seconds")
	_ = flags.Parse(os.Args[2:])

	var err error
	if c.details, err = hex.DecodeString(*details); err != nil {
		fail(fmt.Errorf("-details: %w", err))
	}
	c.idle = time.Duration(*idle) * time.Second
	fail(c.run(strings.Split(*cases, ",")))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
