package meshreflect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	v1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/pillion-proxy/pillion/proxy/wire"
)

// inquiry is the search for one answer among the services of the mesh.
type inquiry struct {
	session  *session
	ctx      context.Context // bounds the whole
	question *v1.ServerReflectionRequest
	asked    []outcome // of services that had no answer to give
}

// outcome is what came of asking a service that had no answer to give.
type outcome struct {
	service string
	err     error // nil: it answered that it does not know
}

// aboutSymbol finds the file of a symbol. A service that owns the symbol's
// gRPC service is asked before the current one, the current one before others.
func (i *inquiry) aboutSymbol(symbol string) *v1.ServerReflectionResponse {
	if answer := answerAboutOwn(i.question); answer != nil {
		return answer
	}
	if answer := i.ask(i.answering(symbol), true); answer != nil {
		return answer
	}
	lists, err := i.session.mesh.lists(i.ctx)
	var owners, others []string
	for _, l := range lists {
		switch {
		case l.err != nil:
		case l.owns(symbol):
			owners = append(owners, l.service)
		default:
			others = append(others, l.service)
		}
	}
	for _, services := range [][]string{owners, i.current(), others} {
		if answer := i.ask(services, true); answer != nil {
			return answer
		}
	}
	return i.notFound(lists, err)
}

// aboutAnything finds what names no gRPC service: the current service is
// asked first, and then all others.
func (i *inquiry) aboutAnything() *v1.ServerReflectionResponse {
	if answer := i.ask(i.current(), false); answer != nil {
		return answer
	}
	if answer := answerAboutOwn(i.question); answer != nil {
		return answer
	}
	lists, err := i.session.mesh.lists(i.ctx)
	var all []string
	for _, l := range lists {
		if l.err == nil {
			all = append(all, l.service)
		}
	}
	if answer := i.ask(all, i.session.current == nil); answer != nil {
		return answer
	}
	return i.notFound(lists, err)
}

// answering returns the services that are known beforehand to answer the gRPC
// service that a symbol is, or is a method of.
func (i *inquiry) answering(symbol string) []string {
	if i.session.mesh.opts.Answering == nil {
		return nil
	}
	candidates := []string{symbol}
	if dot := strings.LastIndexByte(symbol, '.'); dot > 0 {
		candidates = append(candidates, symbol[:dot])
	}
	for _, name := range candidates {
		services, err := i.session.mesh.opts.Answering(i.ctx, name)
		if err == nil && len(services) > 0 { // without it, there are the lists
			return services[:min(len(services), i.session.mesh.opts.MaxServices)]
		}
	}
	return nil
}

func (i *inquiry) current() []string {
	if i.session.current == nil {
		return nil
	}
	return []string{i.session.current.service}
}

// ask asks those of the services that were not asked yet, and returns the
// answer of the first that has one. It is the current one's if that is among
// them. If adopt, the conversation with who answered becomes the current one.
func (i *inquiry) ask(services []string, adopt bool) *v1.ServerReflectionResponse {
	if current := i.session.current; current != nil && slices.Contains(services, current.service) {
		if answer := i.askCurrent(); answer != nil {
			return answer
		}
	}
	services = slices.DeleteFunc(slices.Clone(services), func(service string) bool {
		return slices.ContainsFunc(i.asked, func(o outcome) bool { return o.service == service })
	})
	found, answer := i.askAll(services)
	if found != nil {
		i.session.mesh.answered(found.service)
	}
	switch {
	case found == nil:
	case adopt:
		i.session.end()
		i.session.current = found
	default:
		found.end(i.ctx)
	}
	return answer
}

// askCurrent asks the current service, in a new conversation if the old one is
// over.
func (i *inquiry) askCurrent() *v1.ServerReflectionResponse {
	s := i.session
	service := s.current.service
	if slices.ContainsFunc(i.asked, func(o outcome) bool { return o.service == service }) {
		return nil
	}
	answer, err := s.current.ask(i.ctx, i.question)
	if err != nil {
		s.current, answer, err = s.mesh.converse(s.ctx, i.ctx, service, i.question)
	}
	if err == nil && answers(answer, i.question) {
		return answer
	}
	i.asked = append(i.asked, outcome{service, err})
	return nil
}

// askAll asks several services at once. If several have an answer, it is that
// of the first in their order, so that the same question always is answered
// the same; those behind it are not waited for.
func (i *inquiry) askAll(services []string) (*conversation, *v1.ServerReflectionResponse) {
	var (
		mu       sync.Mutex
		first    = len(services) // of those with an answer
		found    *conversation
		answer   *v1.ServerReflectionResponse
		outcomes = make([]outcome, len(services))
		cancels  []context.CancelFunc
		contexts []context.Context
	)
	for n, service := range services {
		outcomes[n] = outcome{service, errNotAsked}
		ctx, cancel := context.WithCancel(i.ctx)
		defer cancel()
		contexts, cancels = append(contexts, ctx), append(cancels, cancel)
	}
	m := i.session.mesh
	m.forEach(i.ctx, len(services), func(n int) {
		if contexts[n].Err() != nil {
			return
		}
		c, a, err := m.converse(i.session.ctx, contexts[n], services[n], i.question)
		outcomes[n].err = err
		if err != nil {
			return
		}
		over := contexts[n]
		if answers(a, i.question) {
			mu.Lock()
			if n < first {
				for _, cancel := range cancels[n+1:] {
					cancel()
				}
				if found != nil {
					over = contexts[first]
				}
				first, found, answer, c = n, c, a, found
			}
			mu.Unlock()
		}
		if c != nil { // not the one found
			c.end(over)
		}
	})
	if found == nil {
		i.asked = append(i.asked, outcomes...)
	}
	return found, answer
}

// answers reports whether an answer has what the question wants.
func answers(answer *v1.ServerReflectionResponse, question *v1.ServerReflectionRequest) bool {
	switch question.GetMessageRequest().(type) {
	case *v1.ServerReflectionRequest_AllExtensionNumbersOfType:
		return answer.GetAllExtensionNumbersResponse() != nil
	default:
		return len(answer.GetFileDescriptorResponse().GetFileDescriptorProto()) > 0
	}
}

// errorOf is the error that an answer is.
func errorOf(failure *v1.ErrorResponse) error {
	return status.Error(codes.Code(failure.GetErrorCode()), failure.GetErrorMessage())
}

// notFound says who was asked in vain. err is why the services of the mesh are
// not known, if they are not.
func (i *inquiry) notFound(lists []list, err error) *v1.ServerReflectionResponse {
	if err != nil {
		return answerWithError(i.question, codes.Unavailable, err.Error())
	}
	outcomes := i.asked
	for _, l := range lists {
		if l.err != nil && !slices.ContainsFunc(outcomes, func(o outcome) bool { return o.service == l.service }) {
			outcomes = append(outcomes, outcome{l.service, l.err})
		}
	}
	slices.SortFunc(outcomes, func(a, b outcome) int { return strings.Compare(a.service, b.service) })
	var denied, unable, failed []string
	for _, o := range outcomes {
		switch {
		case o.err == nil:
			denied = append(denied, o.service)
		case errors.Is(o.err, errNoReflection):
			unable = append(unable, o.service)
		default:
			failed = append(failed, fmt.Sprintf("%s (%s)", o.service, brief(o.err)))
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "no service of the mesh knows %s", subject(i.question))
	code := codes.NotFound
	if len(denied) == 0 && len(failed) > 0 {
		code = codes.Unavailable // who knows
	}
	for _, part := range []struct {
		intro    string
		services []string
	}{{"asked: ", denied}, {"without reflection: ", unable}, {"no answer from: ", failed}} {
		if len(part.services) > 0 {
			b.WriteString("; ")
			b.WriteString(part.intro)
			b.WriteString(some(part.services))
		}
	}
	return answerWithError(i.question, code, b.String())
}

// subject is what a question is about, for an error.
func subject(question *v1.ServerReflectionRequest) string {
	switch q := question.GetMessageRequest().(type) {
	case *v1.ServerReflectionRequest_FileByFilename:
		return fmt.Sprintf("the file %q", q.FileByFilename)
	case *v1.ServerReflectionRequest_FileContainingSymbol:
		return fmt.Sprintf("the symbol %q", q.FileContainingSymbol)
	case *v1.ServerReflectionRequest_FileContainingExtension:
		return fmt.Sprintf("extension %d of %q", q.FileContainingExtension.GetExtensionNumber(), q.FileContainingExtension.GetContainingType())
	case *v1.ServerReflectionRequest_AllExtensionNumbersOfType:
		return fmt.Sprintf("the type %q", q.AllExtensionNumbersOfType)
	}
	return "this"
}

// some joins names, up to a number that one can read.
func some(names []string) string {
	const most = 20
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// brief is an error in a few words, as part of a longer one.
func brief(err error) string {
	const most = 120
	s := err.Error()
	if st, ok := status.FromError(err); ok {
		s = fmt.Sprintf("%s: %s", wire.StatusName(st.Code()), st.Message())
	}
	if len(s) > most {
		s = s[:most] + "..."
	}
	return s
}
