// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"time"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// NewLines returns the meter of places that are no terminal.
func NewLines(out io.Writer, now func() time.Time) interface {
	Bytes(what string, done, total int64)
	Away()
} {
	return exportedLines{&lines{out: out, now: now, last: now()}}
}

type exportedLines struct{ *lines }

func (l exportedLines) Bytes(what string, done, total int64) { l.bytes(what, done, total) }
func (l exportedLines) Away()                                { l.away() }

// Responder is what a subscriber decides with.
type Responder struct{ r responder }

// NewResponder returns one that runs a program; "" is one that only listens.
func NewResponder(program string) *Responder {
	return &Responder{responder{program: program, how: tenonv1.ReadyHow_READY_HOW_CLOSED, retry: time.Minute}}
}

// Deed is what is to be done.
type Deed struct {
	Stop, Retry bool
	Send        []*tenonv1.SubscribeRequest
	Start       string // the value of TENON_EVENT and the epoch
}

func exported(d deed) Deed {
	e := Deed{Stop: d.stop, Retry: d.retry, Send: d.send}
	switch {
	case d.start.notice != nil:
		e.Start = "notice " + fmt.Sprint(d.start.notice.GetStamp().GetEpoch())
	case d.start.cancellation != nil:
		e.Start = "cancellation " + fmt.Sprint(d.start.cancellation.GetStamp().GetEpoch())
	}
	return e
}

func (r *Responder) Hear(m *tenonv1.SubscribeResponse) Deed { return exported(r.r.hear(m)) }
func (r *Responder) Ended(code int, text string) Deed       { return exported(r.r.ended(ending{code, text})) }
func (r *Responder) Beat() Deed                             { return exported(r.r.beat()) }
func (r *Responder) Again() Deed                            { return exported(r.r.again()) }

// Definition is what the hook reads of a domain's definition.
type Definition = definition

// ReadDefinition reads one.
var ReadDefinition = readDefinition
