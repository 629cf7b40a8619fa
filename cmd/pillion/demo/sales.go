package demo

import (
	"context"
	"math/rand/v2"
	"strconv"

	"google.golang.org/grpc/metadata"
)

// What the greeter is told of the variant of a user, and what it reports.
const (
	experimentName = "greeting-colour"
	variantKey     = "pillion-experiment-" + experimentName
	sellsMore      = "green" // the variant that sells more
	measureKey     = "pillion-measure-revenue"
)

// sale is the trailer that says for how much the user of an RPC has bought: on average
// for 3, and by a part more where the greeting is green.
func sale(ctx context.Context, more float64) metadata.MD {
	revenue := 1.5 * (rand.ExpFloat64() + rand.ExpFloat64())
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(variantKey); len(v) == 1 && v[0] == sellsMore {
		revenue *= 1 + more
	}
	return metadata.Pairs(measureKey, strconv.FormatFloat(revenue, 'f', 4, 64))
}
