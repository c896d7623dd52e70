// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"

	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// queue is what is to be done about one device, in order. A goroutine works it
// off while there is something in it. Service.mu guards it.
type queue struct {
	actions []protocol.HostAction
	running bool
}

// enqueue adds actions to a device's queue; mu is held.
func (s *Service) enqueue(name string, m *memory, actions []protocol.HostAction) {
	if len(actions) == 0 || s.ctx.Err() != nil {
		return
	}
	if m.queue == nil {
		m.queue = new(queue)
	}
	q := m.queue
	q.actions = append(q.actions, actions...)
	s.runQueue(name, q)
}

// runQueue has a queue worked off, once the service is started; mu is held.
func (s *Service) runQueue(name string, q *queue) {
	if s.started && !q.running && len(q.actions) > 0 {
		q.running = true
		s.work.Go(func() { s.workOff(name, q) })
	}
}

// workOff does what is in a queue until nothing is left.
func (s *Service) workOff(name string, q *queue) {
	for {
		s.mu.Lock()
		if len(q.actions) == 0 || s.ctx.Err() != nil {
			q.running = false
			s.mu.Unlock()
			return
		}
		next := q.actions[0]
		q.actions = q.actions[1:]
		s.mu.Unlock()
		s.perform(s.ctx, name, next)
	}
}

// perform carries out one action. What takes long goes on by itself: only what
// the next action relies on is waited for.
func (s *Service) perform(ctx context.Context, name string, a protocol.HostAction) {
	switch a := a.(type) {
	case protocol.Notify:
		s.notify(name, a)
	case protocol.ActOn:
		s.beginAct(name, a)
	case protocol.CancelAct:
		s.cancelAct(name, a)
	case protocol.CutOff:
		s.work.Go(func() { s.cutOff(ctx, name, a) })
	case protocol.Look:
		s.look(ctx, name, a)
	case protocol.RaiseFence:
		s.raiseFence(ctx, name, a)
	case protocol.Verify:
		s.verify(ctx, name, a)
	case protocol.Restore:
		s.beginRestore(name, a)
	}
}

// happened steps one event of a device's host half. An event that was rejected is
// no error: somebody else was quicker.
func (s *Service) happened(name string, event func(t *turn, w *ward) (protocol.HostEvent, error)) error {
	_, err := s.update(func(t *turn) error {
		w, err := t.ward(name)
		if err != nil {
			return err
		}
		e, err := event(t, w)
		if err != nil || e == nil {
			return err
		}
		t.host(w, e)
		return t.run(w)
	})
	if err != nil && s.ctx.Err() == nil {
		s.log.Error("maintenance could not be recorded", "device", name, "err", err)
	}
	return err
}

// reasonOf shows an error as a reason.
func reasonOf(err error) protocol.Reason {
	code := primitives.CodeOf(err)
	return protocol.Reason{Code: code.String(), Text: err.Error(), Retryable: code.Retry() != primitives.RetryNever}
}
