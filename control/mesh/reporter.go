package mesh

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

var (
	errSilent = errors.New("it does not answer")
	errMoved  = errors.New("the connection is to be replaced")
	errOther  = errors.New("somebody else is elected, or nobody")
)

// follow reports to who is elected, as long as the lock says that it is. It says whether
// that one has given the lock back.
func (s *seat) follow(now seen) (orderly bool) {
	const lastWord = 100 * time.Millisecond
	ctx, cancel := context.WithCancelCause(s.ctx)
	resigned := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			next, changed := s.look()
			if string(next.value) != string(now.value) {
				if next.value == nil { // who has given it back is about to say so
					select {
					case <-resigned:
					case <-time.After(lastWord):
					case <-ctx.Done():
					}
				}
				cancel(errOther)
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	defer func() {
		cancel(nil)
		watching.Wait()
		s.settled(time.Time{})
	}()
	if now.leader.GetAddress() == "" {
		s.complain("sidecar " + now.leader.GetId() + " is elected, and others cannot reach it: each acts on what it sees itself")
		<-ctx.Done()
		return false
	}
	for failures := 0; sleep(ctx, backOff(s.m.o.Random(), failures)); {
		began := time.Now()
		err := s.stream(ctx, now.leader)
		s.settled(time.Time{})
		switch {
		case ctx.Err() != nil:
			return false
		case errors.Is(err, errMoved):
			failures = 0
			continue
		case status.Code(err) == codes.Aborted:
			// Nothing more is to be had there, and the watch is about to tell.
			close(resigned)
			<-ctx.Done()
			return true
		}
		if time.Since(began) > silence {
			failures = 0
		}
		failures++
		s.complain(fmt.Sprintf("sidecar %s at %s is elected, and cannot be reported to: %s", now.leader.GetId(), now.leader.GetAddress(), because(err)))
	}
	return false
}

// because is an error in words.
func because(err error) string {
	if failed, ok := status.FromError(err); ok {
		return failed.Message()
	}
	return err.Error()
}

// stream reports on one stream until that ends, and says why it did.
func (s *seat) stream(ctx context.Context, leader *controlv1.Leader) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer quiet.Stop()
	cc, err := s.m.connect(leader, func(reason error) { cancel(reason) })
	if err != nil {
		return err
	}
	defer func() { _ = cc.Close() }()
	stream, err := meshv1.NewMeshClient(cc).Report(ctx)
	if err != nil {
		return causeOf(ctx, err)
	}
	var own sync.WaitGroup
	defer own.Wait()
	defer cancel(nil) // before that
	failed := make(chan error, 1)
	own.Go(func() {
		for first := true; ; first = false {
			said, err := stream.Recv()
			if err != nil {
				failed <- err
				cancel(err)
				return
			}
			quiet.Reset(silence)
			if first {
				s.complain("")
				s.settled(time.Now())
				// Where the other end begins to drain, the stream would stay to its end.
				own.Go(func() {
					if cc.WaitForStateChange(ctx, connectivity.Ready) {
						cancel(errMoved)
					}
				})
			}
			s.obey(said)
		}
	})
	hello := &meshv1.Hello{Id: s.m.o.ID, Service: s.m.provable(), Process: s.m.o.Process, About: s.service}
	err = s.report(ctx, func(r *meshv1.ReportRequest) error {
		r.Hello, hello = hello, nil
		for _, part := range chunks(r, chunkBytes) {
			if err := stream.Send(part); err != nil {
				return err // and Recv says why
			}
		}
		return nil
	})
	if ctx.Err() == nil { // it could not be sent
		select {
		case err = <-failed:
		case <-ctx.Done():
		}
	}
	return causeOf(ctx, err)
}

// causeOf prefers the reason for which ctx has ended.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// report hands to send what was counted: all of it first, also where that is nothing, and
// then what has changed, at once where that is urgent, and else now and then. It returns
// when ctx ends, or with send's error.
func (s *seat) report(ctx context.Context, send func(*meshv1.ReportRequest) error) error {
	ticker := time.NewTicker(reportEvery)
	defer ticker.Stop()
	for all := true; ; all = false {
		r := new(meshv1.ReportRequest)
		s.counting.Lock()
		s.m.o.Counting.Collect(s.service, r, all)
		s.counting.Unlock()
		if all || len(r.GetCanaries()) > 0 || len(r.GetExperiments()) > 0 || len(r.GetHeard()) > 0 {
			if err := send(r); err != nil {
				return err
			}
			if !sleep(ctx, urgentEvery) {
				return ctx.Err()
			}
		}
		select {
		case <-s.urgent:
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
