package consul

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/control/kv"
)

// Commit implements kv.Store.
func (s *Store) Commit(ctx context.Context, ops ...kv.Op) error {
	if err := kv.CheckOps(ops); err != nil {
		return err
	}
	what := "write key " + strconv.Quote(ops[0].Key)
	if more := len(ops) - 1; more > 0 {
		what += " and " + strconv.Itoa(more) + " more"
	}
	var rules []string
	for _, op := range ops[:min(len(ops), 3)] {
		access := "write"
		if op.Holder != "" {
			access = "read"
		}
		rules = append(rules, keyRule(op.Key, access, false))
	}
	if op := ops[0]; len(ops) == 1 && op.Value != nil {
		return s.call(ctx, what, rules, func(ctx context.Context) error { return s.put(ctx, op) })
	}

	var (
		parts []api.TxnOp
		keys  []string // of the parts
	)
	add := func(verb api.KVOp, op kv.Op) {
		part := &api.KVTxnOp{Verb: verb, Key: op.Key, Index: op.Version, Session: op.Holder}
		if verb == api.KVSet || verb == api.KVCAS {
			part.Value = op.Value
		}
		parts, keys = append(parts, api.TxnOp{KV: part}), append(keys, op.Key)
	}
	for _, op := range ops {
		switch {
		case op.Holder != "":
			add(api.KVCheckSession, op)
		case op.Value == nil && op.Any:
			add(api.KVDelete, op)
		case op.Value == nil && op.Version == 0:
			add(api.KVCheckNotExists, op)
		case op.Value == nil:
			add(api.KVCheckIndex, op) // which a deletion by itself takes for well where the key is gone
			add(api.KVDelete, op)
		case op.Any:
			add(api.KVSet, op)
		default:
			add(api.KVCAS, op)
		}
	}

	return s.call(ctx, what, rules, func(ctx context.Context) error {
		failed, err := s.transact(ctx, parts)
		if err != nil || len(failed) == 0 {
			return err
		}
		var conflict kv.ConflictError
		for _, at := range failed {
			if !slices.Contains(conflict.Keys, keys[at]) {
				conflict.Keys = append(conflict.Keys, keys[at])
			}
		}

		return &conflict
	})
}

// put writes one key. Its value may be larger than one in a transaction.
func (s *Store) put(ctx context.Context, op kv.Op) error {
	pair := &api.KVPair{Key: op.Key, Value: op.Value, ModifyIndex: op.Version}
	options := (&api.WriteOptions{}).WithContext(ctx)
	if op.Any {
		_, err := s.agent.api.KV().Put(pair, options)

		return err
	}
	ok, _, err := s.agent.api.KV().CAS(pair, options)
	if err == nil && !ok {
		err = &kv.ConflictError{Keys: []string{op.Key}}
	}

	return err
}

// transact does all parts or none. It returns which of them are not as they have to be, in
// order; what else is wrong is an error.
func (s *Store) transact(ctx context.Context, parts []api.TxnOp) (failed []int, err error) {
	options := (&api.WriteOptions{}).WithContext(ctx)
	var done api.TxnResponse
	// Not by the library's own call: its errors do not say with which status.
	_, err = s.agent.api.Raw().Write("/v1/txn", parts, &done, options)
	status, isStatus := errors.AsType[api.StatusError](err)
	if !isStatus || status.Code != http.StatusConflict {
		return nil, err
	}
	var said api.TxnResponse
	if err := json.Unmarshal([]byte(status.Body), &said); err != nil || len(said.Errors) == 0 {
		return nil, unusable{errors.New("a transaction has failed without a reason")}
	}
	for _, e := range said.Errors {
		switch {
		case e == nil || e.OpIndex < 0 || e.OpIndex >= len(parts):
			return nil, unusable{errors.New("a transaction has failed for no part of it")}
		case strings.Contains(e.What, "Permission denied"):
			return nil, api.StatusError{Code: http.StatusForbidden, Body: e.What}
		case strings.Contains(e.What, "invalid session"):
			return nil, api.StatusError{Code: http.StatusInternalServerError, Body: e.What}
		}
		failed = append(failed, e.OpIndex)
	}

	return failed, nil
}
