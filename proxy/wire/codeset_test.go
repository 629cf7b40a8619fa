package wire

import (
	"testing"

	"google.golang.org/grpc/codes"
)

func TestCodeSets(t *testing.T) {
	t.Parallel()
	set, err := ParseCodes([]string{"UNAVAILABLE", "DATA_LOSS"})
	if err != nil || set != CodesOf(codes.Unavailable, codes.DataLoss) || set.String() != "UNAVAILABLE, DATA_LOSS" {
		t.Errorf("%v, %v", set, err)
	}
	for c := range codes.Code(17) {
		if set.Has(c) != (c == codes.Unavailable || c == codes.DataLoss) {
			t.Errorf("%v: %v", c, set.Has(c))
		}
		if got, err := ParseCode(StatusName(c)); got != c || err != nil {
			t.Errorf("%v is read as %v, %v", c, got, err)
		}
	}
	if CodesOf(4711) != CodesOf(codes.Unknown) || !CodesOf(codes.Unknown).Has(4711) {
		t.Error("a status that gRPC does not define is not UNKNOWN")
	}
	if _, err := ParseCodes([]string{"unavailable"}); err == nil {
		t.Error("no error")
	}
}
