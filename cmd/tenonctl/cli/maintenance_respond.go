// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

// exitTemporary is the exit code by which a program refuses for now: EX_TEMPFAIL
// of sysexits.h.
const exitTemporary = 75

// job is one message that a program is run for: a notice, or the cancellation of
// one.
type job struct {
	notice       *tenonv1.MaintenanceNotice
	cancellation *tenonv1.MaintenanceCancellation
}

func (j job) isZero() bool { return j.notice == nil && j.cancellation == nil }

// sameAs reports whether both ask for the same.
func (j job) sameAs(n *tenonv1.MaintenanceNotice) bool {
	a, b := j.notice.GetStamp(), n.GetStamp()
	return j.notice != nil && a.GetTerm() == b.GetTerm() && a.GetEpoch() == b.GetEpoch()
}

// message is what the program reads.
func (j job) message() proto.Message {
	if j.notice != nil {
		return j.notice
	}
	return j.cancellation
}

// environment is what the program finds in its environment.
func (j job) environment() []string {
	if c := j.cancellation; c != nil {
		return variables("TENON_EVENT", "cancellation", "TENON_DEVICE", c.GetDevice(), "TENON_USE", c.GetUseId(),
			"TENON_PHASE", dashed(show.Phase(c.GetPhase())), "TENON_EPOCH", fmt.Sprint(c.GetStamp().GetEpoch()))
	}
	n := j.notice
	return variables("TENON_EVENT", "notice", "TENON_DEVICE", n.GetDevice(), "TENON_USE", n.GetUseId(),
		"TENON_PHASE", dashed(show.Phase(n.GetPhase())), "TENON_EPOCH", fmt.Sprint(n.GetStamp().GetEpoch()),
		"TENON_IMPACT", dashed(show.Impact(n.GetImpact())), "TENON_MAINTENANCE", strings.Join(n.GetMaintenanceIds(), " "),
		"TENON_REASON", n.GetReason(), "TENON_ALTERNATIVES", strings.Join(n.GetAlternatives(), " "),
		"TENON_EXPECTED_SECONDS", seconds(n.GetExpectedDuration()), "TENON_RESPOND_SECONDS", seconds(n.GetRespondWithin()),
		"TENON_DRAIN_SECONDS", seconds(n.GetDrainWithin()))
}

// variables joins names and values. No value holds what an environment cannot.
func variables(pairs ...string) []string {
	var all []string
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, pairs[i]+"="+strings.ReplaceAll(pairs[i+1], "\x00", ""))
	}
	return all
}

func dashed(words string) string { return strings.ReplaceAll(words, " ", "-") }

// seconds are whole ones; "" where there is no limit.
func seconds(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	return fmt.Sprint(int64(d.AsDuration().Seconds()))
}

// ending is how a program ended.
type ending struct {
	code int    // its exit code; -1: a signal, or it did not start
	text string // the last that it said of it
}

// responder decides what a subscriber does, from what it hears and how its
// program ends. It does nothing itself.
type responder struct {
	program string // for people; empty: there is none, and nothing is answered
	how     tenonv1.ReadyHow
	eta     time.Duration
	retry   time.Duration // how soon a refusal for now is tried again

	job       job  // that runs, or ran last and is still answered for
	running   bool // its program
	stopping  bool // because it is obsolete
	next      job  // to run once the running one has ended
	percent   float64
	answer    *tenonv1.SubscribeRequest // of the job, once its program has ended
	objecting bool                      // the server has an objection of ours
	repeat    bool                      // the answer was refused and is to be given again
}

// deed is what is to be done, in this order.
type deed struct {
	stop  bool // the running program
	send  []*tenonv1.SubscribeRequest
	start job
	retry bool // call again after the retry time
}

// hear takes a message of the server.
func (r *responder) hear(m *tenonv1.SubscribeResponse) deed {
	switch m := m.GetMessage().(type) {
	case *tenonv1.SubscribeResponse_Notice:
		return r.noticed(m.Notice)
	case *tenonv1.SubscribeResponse_Cancellation:
		return r.cancelled(m.Cancellation)
	case *tenonv1.SubscribeResponse_Refused_:
		f := m.Refused.GetFailure()
		r.repeat = r.answer != nil && (f.GetRetry() == tenonv1.Retry_RETRY_SAME || f.GetRetry() == tenonv1.Retry_RETRY_AFTER_CHANGE)
	}
	return deed{}
}

// noticed takes a notice. One that asks for the same as before, because a step
// went on or tenond was started anew, is answered the same and runs nothing.
func (r *responder) noticed(n *tenonv1.MaintenanceNotice) deed {
	switch {
	case r.program == "":
		r.job = job{notice: n}
		return deed{}
	case !r.next.isZero() && r.next.sameAs(n), r.next.isZero() && r.job.sameAs(n):
		return deed{send: r.answers()}
	}
	return r.begin(job{notice: n})
}

// cancelled takes a cancellation, which matters to those who were asked.
func (r *responder) cancelled(c *tenonv1.MaintenanceCancellation) deed {
	asked := r.job.notice != nil && r.next.cancellation == nil || r.next.notice != nil
	switch {
	case !asked:
		return deed{}
	case r.program == "":
		r.job = job{}
		return deed{}
	}
	return r.begin(job{cancellation: c})
}

// begin runs j, after what runs has ended. What runs for a notice that is obsolete
// is stopped; what undoes one is not.
func (r *responder) begin(j job) deed {
	r.answer, r.objecting, r.repeat = nil, false, false
	if r.running {
		r.next = j
		stop := r.job.notice != nil && !r.stopping
		r.stopping = r.stopping || stop
		return deed{stop: stop}
	}
	return r.run(j)
}

func (r *responder) run(j job) deed {
	r.job, r.next, r.running, r.stopping, r.percent = j, job{}, true, false, 0
	d := deed{start: j}
	if r.answers() != nil {
		d.send = r.answers()
	}
	return d
}

// blocks reports whether the server waits for an answer.
func (r *responder) blocks() bool { return r.job.notice.GetUseId() != "" }

// answers are what the server is to know of the job now.
func (r *responder) answers() []*tenonv1.SubscribeRequest {
	switch {
	case !r.blocks():
		return nil
	case r.answer != nil:
		return []*tenonv1.SubscribeRequest{r.answer}
	case r.objecting:
		return nil // until the program has another outcome
	}
	return []*tenonv1.SubscribeRequest{accept(r.eta)}
}

// ended takes the end of the program.
func (r *responder) ended(e ending) deed {
	r.running = false
	if !r.next.isZero() {
		return r.run(r.next)
	}
	if r.job.cancellation != nil {
		r.job = job{}
		return deed{}
	}
	d := deed{retry: e.code == exitTemporary}
	if !r.blocks() {
		return d
	}
	if e.code == 0 {
		if r.objecting {
			d.send = append(d.send, withdraw())
		}
		r.answer, r.objecting = ready(r.how, r.program+" exited with 0"), false
	} else {
		r.answer, r.objecting = object(r.reason(e)), true
	}
	d.send = append(d.send, r.answer)
	return d
}

// reason is why the program refuses.
func (r *responder) reason(e ending) *tenonv1.UseReason {
	text := e.text
	if text == "" {
		text = fmt.Sprintf("%s exited with %d", r.program, e.code)
	}
	switch e.code {
	case exitTemporary:
		return &tenonv1.UseReason{Code: "temporary", Text: text, Retryable: true, RetryIn: durationpb.New(r.retry)}
	case -1:
		return &tenonv1.UseReason{Code: "not-run", Text: text}
	}
	return &tenonv1.UseReason{Code: fmt.Sprintf("exit-%d", e.code), Text: text}
}

// beat says that the program lives, or gives an answer again that was refused.
func (r *responder) beat() deed {
	switch {
	case r.repeat:
		r.repeat = false
		return deed{send: r.answers()}
	case r.running && r.blocks() && !r.objecting && !r.stopping:
		return deed{send: []*tenonv1.SubscribeRequest{progress(r.percent)}}
	}
	return deed{}
}

// again runs the program of a job that it refused for now once more.
func (r *responder) again() deed {
	if r.running || r.job.notice == nil || r.blocks() && !r.objecting {
		return deed{}
	}
	r.answer = nil
	return r.run(r.job)
}

func accept(eta time.Duration) *tenonv1.SubscribeRequest {
	return &tenonv1.SubscribeRequest{Message: &tenonv1.SubscribeRequest_Accept_{Accept: &tenonv1.SubscribeRequest_Accept{Eta: duration(eta)}}}
}

func progress(percent float64) *tenonv1.SubscribeRequest {
	return &tenonv1.SubscribeRequest{Message: &tenonv1.SubscribeRequest_Progress_{Progress: &tenonv1.SubscribeRequest_Progress{Percent: percent}}}
}

func ready(how tenonv1.ReadyHow, evidence string) *tenonv1.SubscribeRequest {
	return &tenonv1.SubscribeRequest{Message: &tenonv1.SubscribeRequest_Ready_{Ready: &tenonv1.SubscribeRequest_Ready{How: how, Evidence: evidence}}}
}

func object(reason *tenonv1.UseReason) *tenonv1.SubscribeRequest {
	return &tenonv1.SubscribeRequest{Message: &tenonv1.SubscribeRequest_Object_{Object: &tenonv1.SubscribeRequest_Object{Reason: reason}}}
}

func withdraw() *tenonv1.SubscribeRequest {
	return &tenonv1.SubscribeRequest{Message: &tenonv1.SubscribeRequest_Withdraw_{Withdraw: &tenonv1.SubscribeRequest_Withdraw{}}}
}
