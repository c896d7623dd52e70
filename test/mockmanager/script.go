// SPDX-License-Identifier: Apache-2.0

package mockmanager

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// Script is a scenario: steps that are carried out one after another.
type Script struct {
	Name  string `yaml:"name"`
	Steps []Step `yaml:"steps"`
}

// Step is one thing that happens. Exactly one of its parts is there.
type Step struct {
	Hosts      int           `yaml:"hosts"`      // wait until that many have a session and reported
	Prepare    *Wanted       `yaml:"prepare"`    // an intent, or a higher revision of one
	Extend     *Wanted       `yaml:"extend"`     // other deadlines
	Cancel     *Wanted       `yaml:"cancel"`     // as end
	End        *Wanted       `yaml:"end"`        // take an intent back
	Override   *Permitted    `yaml:"override"`   // stop waiting for a use or host
	Grant      *Permitted    `yaml:"grant"`      // let one use in
	Fault      *Fault        `yaml:"fault"`      // of the next messages
	Chaos      *Chaos        `yaml:"chaos"`      // of all messages from now on; zero probabilities end it
	Disconnect *struct{}     `yaml:"disconnect"` // cut every session
	Restart    *struct{}     `yaml:"restart"`    // forget what a crash forgets
	FailOver   string        `yaml:"fail-over"`  // another manager, of this id and a later term
	Pause      time.Duration `yaml:"pause"`
	Expect     *Expected     `yaml:"expect"`
}

// Wanted is what a step says of an intent. An empty device is the only one there is.
type Wanted struct {
	Device     string        `yaml:"device"`
	ID         string        `yaml:"id"`
	Revision   uint64        `yaml:"revision"`
	Reason     string        `yaml:"reason"`
	Impact     string        `yaml:"impact"` // "io stall", "disconnect" or "data loss"; empty: disconnect
	Expected   time.Duration `yaml:"expected"`
	NotBefore  time.Duration `yaml:"not-before"`
	Respond    time.Duration `yaml:"respond"`
	Drain      time.Duration `yaml:"drain"`
	OnRespond  string        `yaml:"on-respond"` // "hold", "escalate" or "force"
	OnDrain    string        `yaml:"on-drain"`
	Permission string        `yaml:"permission"`
	Policy     []string      `yaml:"policy"` // "move", "move DEVICE", "detach", …, "shutdown", "shutdown restart"
	Return     bool          `yaml:"return"`
}

// Permitted is what a step says of an override or a grant.
type Permitted struct {
	Device     string `yaml:"device"`
	Subject    string `yaml:"subject"`
	Permission string `yaml:"permission"`
	Reason     string `yaml:"reason"`
}

// Expected is what a step waits for.
type Expected struct {
	Device  string        `yaml:"device"`
	Phase   string        `yaml:"phase"`   // such as "in maintenance"
	Blocker string        `yaml:"blocker"` // a part of what somebody who blocks is called, or of why
	Within  time.Duration `yaml:"within"`  // 0: 30 s
}

const defaultWithin = 30 * time.Second

// by is who does what a script says, in audits.
const by = "script"

// ReadScript reads a scenario in YAML or JSON.
func ReadScript(text []byte) (Script, error) {
	var s Script
	if err := yaml.NewDecoder(bytes.NewReader(text), yaml.DisallowUnknownField()).Decode(&s); err != nil {
		return s, err
	}
	for i, step := range s.Steps {
		if n := len(step.parts()); n != 1 {
			return s, fmt.Errorf("step %d says %d things, want one", i+1, n)
		}
	}
	return s, nil
}

// parts lists what a step says, in words.
func (s Step) parts() []string {
	var all []string
	for name, there := range map[string]bool{
		"hosts": s.Hosts > 0, "prepare": s.Prepare != nil, "extend": s.Extend != nil, "cancel": s.Cancel != nil, "end": s.End != nil,
		"override": s.Override != nil, "grant": s.Grant != nil, "fault": s.Fault != nil, "chaos": s.Chaos != nil,
		"disconnect": s.Disconnect != nil, "restart": s.Restart != nil, "fail-over": s.FailOver != "", "pause": s.Pause > 0, "expect": s.Expect != nil,
	} {
		if there {
			all = append(all, name)
		}
	}
	return all
}

// Run carries a scenario out, and tells each step before it does.
func (m *Manager) Run(ctx context.Context, s Script, tell func(string)) error {
	for i, step := range s.Steps {
		what := strings.Join(step.parts(), "")
		tell(fmt.Sprintf("step %d: %s", i+1, what))
		m.record.event("", "step %d: %s", i+1, what)
		if err := m.do(ctx, step); err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, what, err)
		}
	}
	return nil
}

func (m *Manager) do(ctx context.Context, s Step) error {
	switch {
	case s.Hosts > 0:
		ctx, cancel := context.WithTimeout(ctx, defaultWithin)
		defer cancel()
		return m.AwaitHosts(ctx, s.Hosts)
	case s.Prepare != nil:
		intent, err := s.Prepare.intent()
		if err != nil {
			return err
		}
		return m.Do(s.Prepare.Device, protocol.Prepare{Intent: intent})
	case s.Extend != nil:
		e := s.Extend
		return m.Do(e.Device, protocol.Extend{ID: e.ID, By: by, Respond: e.Respond, Drain: e.Drain, Expected: e.Expected})
	case s.Cancel != nil:
		return m.Do(s.Cancel.Device, protocol.End{ID: s.Cancel.ID, By: by})
	case s.End != nil:
		return m.Do(s.End.Device, protocol.End{ID: s.End.ID, By: by})
	case s.Override != nil:
		o := s.Override
		return m.Do(o.Device, protocol.Overrule{Override: protocol.Override{Subject: o.Subject, Permission: o.Permission, By: by, Reason: o.Reason}})
	case s.Grant != nil:
		return m.Do(s.Grant.Device, protocol.GrantUse{Grant: protocol.Grant{ID: s.Grant.Permission, Subject: s.Grant.Subject, By: by}})
	case s.Expect != nil:
		return m.expect(ctx, *s.Expect)
	}
	return m.disturb(ctx, s)
}

// disturb does what is done to messages and sessions.
func (m *Manager) disturb(ctx context.Context, s Step) error {
	switch {
	case s.Fault != nil:
		return m.Befall(*s.Fault)
	case s.Chaos != nil:
		m.Unsettle(s.Chaos)
	case s.Disconnect != nil:
		m.Disconnect("")
	case s.Restart != nil:
		return m.Restart()
	case s.FailOver != "":
		return m.FailOver(s.FailOver)
	case s.Pause > 0:
		timer := time.NewTimer(s.Pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (m *Manager) expect(ctx context.Context, e Expected) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(e.Within, defaultWithin))
	defer cancel()
	if !slices.Contains(phases(), e.Phase) && e.Phase != "" {
		return fmt.Errorf("no phase is called %q; expected one of %s", e.Phase, strings.Join(phases(), ", "))
	}
	err := m.Await(ctx, e.Device, func(s protocol.Management, blockers []protocol.Blocker) bool {
		blocked := e.Blocker == "" || slices.ContainsFunc(blockers, func(b protocol.Blocker) bool {
			return strings.Contains(strings.Join([]string{b.Host, b.Use, b.Name, b.Reason}, " "), e.Blocker)
		})
		return blocked && (e.Phase == "" || s.Phase.String() == e.Phase)
	})
	if err != nil {
		return errors.Join(fmt.Errorf("expected phase %q and blocker %q", e.Phase, e.Blocker), err)
	}
	return nil
}

func phases() []string {
	var all []string
	for p := protocol.InService; p <= protocol.ReturnFailed; p++ {
		all = append(all, p.String())
	}
	return all
}

// intent reads what is wanted.
func (w *Wanted) intent() (protocol.Intent, error) {
	i := protocol.Intent{
		ID: w.ID, Revision: w.Revision, Requester: by, Reason: w.Reason, Expected: w.Expected, NotBefore: w.NotBefore,
		Respond: w.Respond, Drain: w.Drain, Permission: w.Permission, Return: w.Return,
	}
	var err error
	if i.Impact, err = word(cmp.Or(w.Impact, protocol.Disconnect.String()), protocol.IOStall, protocol.DataLoss); err != nil {
		return i, err
	}
	if i.OnRespond, err = word(cmp.Or(w.OnRespond, "hold"), protocol.OnDeadlineHold, protocol.OnDeadlineForce); err != nil {
		return i, err
	}
	if i.OnDrain, err = word(cmp.Or(w.OnDrain, "hold"), protocol.OnDeadlineHold, protocol.OnDeadlineForce); err != nil {
		return i, err
	}
	for _, text := range w.Policy {
		action, rest, _ := strings.Cut(text, " ")
		step := protocol.PolicyStep{Action: protocol.Action(action)}
		switch {
		case step.Action == protocol.Move:
			step.Target = rest
		case step.Action == protocol.Shutdown && (rest == "" || rest == "restart"):
			step.Restart = rest == "restart"
		case rest != "" || !slices.Contains([]protocol.Action{protocol.Detach, protocol.Pause, protocol.Ignore, protocol.Ask}, step.Action):
			return i, fmt.Errorf("%q is no step of a policy", text)
		}
		i.Policy = append(i.Policy, step)
	}
	return i, nil
}

// word finds the value that prints as text.
func word[T interface {
	~uint8
	fmt.Stringer
}](text string, first, last T) (T, error) {
	var all []string
	for v := first; v <= last; v++ {
		if v.String() == text {
			return v, nil
		}
		all = append(all, v.String())
	}
	return first, fmt.Errorf("%q: expected one of %s", text, strings.Join(all, ", "))
}
