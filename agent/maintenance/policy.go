// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"errors"
	"strings"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// policies are the recorded policies, by key.
type policies map[string]protocol.Policy

// policyKey names a policy in the journal: a device's, or with a use that use's.
func policyKey(device, use string) string {
	if use != "" {
		return "use/" + use
	}
	return "device/" + device
}

func policiesOf(tx *journal.Tx) policies {
	p := make(policies)
	for key, policy := range journal.Records[protocol.Policy](tx, journal.Policies) {
		p[key] = policy
	}
	return p
}

// of returns the policy of a use: its own, or else its device's; nil for neither.
func (p policies) of(device, use string) protocol.Policy {
	if own := p[policyKey("", use)]; len(own) > 0 {
		return own
	}
	return p[policyKey(device, "")]
}

// SetPolicy sets the policy of a use, or of a device for those of its uses that
// have none. It counts from the next order on. CodeNotFound, CodeInvalid.
func (s *Service) SetPolicy(ctx context.Context, r PolicyRequest) error {
	if err := checkPolicy("policy", r.Policy); err != nil {
		return err
	}
	_, err := s.call(ctx, kindPolicy, r.RequestID, r.Caller, policyArgs{Subject: r.Subject, Policy: r.Policy})
	return err
}

// Policy returns the policy that was set for a device or a use; empty: none was.
// CodeNotFound.
func (s *Service) Policy(_ context.Context, subject string) (policy protocol.Policy, err error) {
	err = s.journal.View(func(tx *journal.Tx) error {
		key, err := subjectKey(tx, subject)
		if err != nil {
			return err
		}
		policy = policiesOf(tx)[key]
		return nil
	})
	return policy, err
}

// subjectKey finds whose policy is meant.
func subjectKey(tx *journal.Tx, subject string) (string, error) {
	if _, err := tx.Device(subject); err == nil {
		return policyKey(subject, ""), nil
	} else if !errors.Is(err, primitives.CodeNotFound) {
		return "", err
	}
	if _, err := tx.Use(subject); err == nil {
		return policyKey("", subject), nil
	} else if !errors.Is(err, primitives.CodeNotFound) {
		return "", err
	}
	return "", primitives.Errorf(primitives.CodeNotFound, "%q is neither a configured device nor a recorded use", subject).
		Trying("see: tenonctl device list, and tenonctl maintenance status DEVICE")
}

// setPolicy writes a policy, and forgets those of uses that are no more.
func (s *Service) setPolicy(a policyArgs) error {
	return s.journal.Update(func(tx *journal.Tx) error {
		key, err := subjectKey(tx, a.Subject)
		if err != nil {
			return err
		}
		for old := range policiesOf(tx) {
			use, is := strings.CutPrefix(old, "use/")
			if !is {
				continue
			}
			if _, err := tx.Use(use); errors.Is(err, primitives.CodeNotFound) {
				if err := journal.Drop(tx, journal.Policies, old); err != nil {
					return err
				}
			}
		}
		if len(a.Policy) == 0 {
			return journal.Drop(tx, journal.Policies, key)
		}
		return journal.Put(tx, journal.Policies, key, a.Policy)
	})
}

// checkPolicy reports every mistake in a policy, with CodeInvalid.
func checkPolicy(field string, p protocol.Policy) error {
	var problems []primitives.Problem
	add := func(format string, args ...any) {
		e := primitives.Invalid(field, format, args...)
		problems = append(problems, e.Problems...)
	}
	for i, step := range p {
		switch step.Action {
		case protocol.Move, protocol.Detach, protocol.Pause, protocol.Shutdown, protocol.Ignore, protocol.Ask:
		default:
			add("step %d: %q is no action; expected move, detach, pause, shutdown, ignore or ask", i+1, step.Action)
		}
		if step.Target != "" && step.Action != protocol.Move {
			add("step %d: %s has no target", i+1, step.Action)
		}
		if step.Restart && step.Action != protocol.Shutdown {
			add("step %d: %s has no restart", i+1, step.Action)
		}
		if i < len(p)-1 && (step.Action == protocol.Ask || step.Action == protocol.Ignore) {
			add("step %d: nothing follows %s", i+1, step.Action)
		}
	}
	if len(problems) > 0 {
		return &primitives.Error{Code: primitives.CodeInvalid, Problems: problems}
	}
	return nil
}
