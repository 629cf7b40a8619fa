package hpack

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

func octets(tb testing.TB, digits string) []byte {
	tb.Helper()
	p, err := hex.DecodeString(strings.Join(strings.Fields(digits), ""))
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// tableOf lists a dynamic table, newest first.
func tableOf(t *dynamicTable) []Field {
	var all []Field
	for age := range uint64(t.count) {
		e := t.at(age)
		all = append(all, Field{Name: e.name, Value: e.value})
	}
	return all
}

func fields(pairs ...string) []Field {
	var all []Field
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, Field{Name: pairs[i], Value: pairs[i+1]})
	}
	return all
}

// rfcBlock is one header block of RFC 7541 Appendix C and what it leaves behind.
type rfcBlock struct {
	octets    string
	fields    []Field
	table     []Field
	tableSize uint32
}

// TestAppendixC decodes the examples of RFC 7541 Appendix C, sections 2 to 6.
func TestAppendixC(t *testing.T) {
	t.Parallel()
	const (
		date1 = "Mon, 21 Oct 2013 20:13:21 GMT"
		date2 = "Mon, 21 Oct 2013 20:13:22 GMT"
		foo   = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
		site  = "https://www.example.com"
	)
	request1 := fields(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "www.example.com")
	request2 := append(slices.Clone(request1), Field{Name: "cache-control", Value: "no-cache"})
	request3 := fields(":method", "GET", ":scheme", "https", ":path", "/index.html",
		":authority", "www.example.com", "custom-key", "custom-value")
	requestTable1 := fields(":authority", "www.example.com")
	requestTable2 := fields("cache-control", "no-cache", ":authority", "www.example.com")
	requestTable3 := fields("custom-key", "custom-value", "cache-control", "no-cache", ":authority", "www.example.com")

	response1 := fields(":status", "302", "cache-control", "private", "date", date1, "location", site)
	response2 := fields(":status", "307", "cache-control", "private", "date", date1, "location", site)
	response3 := fields(":status", "200", "cache-control", "private", "date", date2, "location", site,
		"content-encoding", "gzip", "set-cookie", foo)
	responseTable1 := fields("location", site, "date", date1, "cache-control", "private", ":status", "302")
	responseTable2 := fields(":status", "307", "location", site, "date", date1, "cache-control", "private")
	responseTable3 := fields("set-cookie", foo, "content-encoding", "gzip", "date", date2)

	cases := []struct {
		name      string
		tableSize uint32
		blocks    []rfcBlock
	}{
		{"C.2.1 literal with indexing", 4096, []rfcBlock{{
			"400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
			fields("custom-key", "custom-header"), fields("custom-key", "custom-header"), 55,
		}}},
		{"C.2.2 literal without indexing", 4096, []rfcBlock{{
			"040c 2f73 616d 706c 652f 7061 7468", fields(":path", "/sample/path"), nil, 0,
		}}},
		{"C.2.3 literal never indexed", 4096, []rfcBlock{{
			"1008 7061 7373 776f 7264 0673 6563 7265 74",
			[]Field{{Name: "password", Value: "secret", Sensitive: true}}, nil, 0,
		}}},
		{"C.2.4 indexed", 4096, []rfcBlock{{"82", fields(":method", "GET"), nil, 0}}},
		{"C.3 requests", 4096, []rfcBlock{
			{"8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", request1, requestTable1, 57},
			{"8286 84be 5808 6e6f 2d63 6163 6865", request2, requestTable2, 110},
			{"8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", request3, requestTable3, 164},
		}},
		{"C.4 requests in Huffman code", 4096, []rfcBlock{
			{"8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", request1, requestTable1, 57},
			{"8286 84be 5886 a8eb 1064 9cbf", request2, requestTable2, 110},
			{"8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", request3, requestTable3, 164},
		}},
		{"C.5 responses with eviction", 256, []rfcBlock{
			{`4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133
			  2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70
			  6c65 2e63 6f6d`, response1, responseTable1, 222},
			{"4803 3330 37c1 c0bf", response2, responseTable2, 222},
			{`88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d
			  54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049
			  5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e
			  3d31`, response3, responseTable3, 215},
		}},
		{"C.6 responses in Huffman code with eviction", 256, []rfcBlock{
			{`4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6
			  2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3`, response1, responseTable1, 222},
			{"4883 640e ffc1 c0bf", response2, responseTable2, 222},
			{`88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab
			  77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f
			  9587 3160 65c0 03ed 4ee5 b106 3d50 07`, response3, responseTable3, 215},
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := NewDecoder(DefaultTableSize)
			d.table.setMaxSize(c.tableSize)
			var b Block
			for i, block := range c.blocks {
				b.Reset()
				p := octets(t, block.octets)
				if err := d.Decode(p, 0, &b); err != nil {
					t.Fatalf("block %d: %v", i+1, err)
				}
				if !slices.Equal(b.Fields, block.fields) {
					t.Errorf("block %d: fields are %v, want %v", i+1, b.Fields, block.fields)
				}
				if got := tableOf(&d.table); !slices.Equal(got, block.table) {
					t.Errorf("block %d: table is %v, want %v", i+1, got, block.table)
				}
				if d.table.size != block.tableSize {
					t.Errorf("block %d: table has %d octets, want %d", i+1, d.table.size, block.tableSize)
				}
			}
		})
	}
}

// TestAppendixA looks at some entries of the static table at its ends and corners.
func TestAppendixA(t *testing.T) {
	t.Parallel()
	for i, want := range map[int]entry{
		1: {name: ":authority", value: ""}, 2: {name: ":method", value: "GET"}, 3: {name: ":method", value: "POST"}, 4: {name: ":path", value: "/"},
		6: {name: ":scheme", value: "http"}, 8: {name: ":status", value: "200"}, 14: {name: ":status", value: "500"},
		16: {name: "accept-encoding", value: "gzip, deflate"}, 23: {name: "authorization", value: ""}, 31: {name: "content-type", value: ""},
		58: {name: "user-agent", value: ""}, 61: {name: "www-authenticate", value: ""},
	} {
		if staticTable[i] != want {
			t.Errorf("entry %d is %+v, want %+v", i, staticTable[i], want)
		}
	}
	for i := 1; i <= staticLen; i++ {
		e := staticTable[i]
		h := hashName(e.name)
		if got := findStaticPair(hashPair(h, e.value), e.name, e.value); got != uint32(i) {
			t.Errorf("field %d is found at %d", i, got)
		}
		first := slices.IndexFunc(staticTable[:], func(other entry) bool { return other.name == e.name })
		if got := findStaticName(h, e.name); got != uint32(first) {
			t.Errorf("the name of field %d is found at %d, want %d", i, got, first)
		}
	}
	if got := findStaticName(hashName("te"), "te"); got != 0 {
		t.Errorf("a name that is not in the table is found at %d", got)
	}
}
