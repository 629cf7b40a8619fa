package experiment

import (
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

var unmarshal = proto.UnmarshalOptions{DiscardUnknown: true}

func quoted(s string) string { return strconv.Quote(s) }

func part(l *configv1.Layer) string { return fmt.Sprintf("%d to %d", l.GetStart(), l.GetEnd()) }
