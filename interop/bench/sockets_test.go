package main

import (
	"net"
	"os"
	"slices"
	"testing"
)

func TestEstablishedTo(t *testing.T) {
	t.Parallel()
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0 100 0 0 10 0
   1: 0100007F:A000 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 101 1 0 20 4 30 10 -1
   2: 0100007F:A001 0200007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 102 1 0 20 4 30 10 -1
   3: 0100007F:A002 0100007F:1F90 06 00000000:00000000 03:00000000 00000000     0        0 103 3 0
   4: 0100007F:1F90 0100007F:A000 01 00000000:00000000 00:00000000 00000000     0        0 104 1 0 20 4 30 10 -1
`
	if got, want := establishedTo(table, 8080), []string{"101", "102"}; !slices.Equal(got, want) {
		t.Errorf("inodes %v, want %v", got, want)
	}
}

func TestConnectionsToAListener(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for range 3 {
		c, err := net.Dial("tcp4", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	n, err := connectionsTo(os.Getpid(), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if n != 3 {
		t.Errorf("%d connections, want 3", n)
	}
}
