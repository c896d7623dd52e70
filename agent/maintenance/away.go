// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"strings"
	"time"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// codeAway is the reason that the agent gives for a subscriber that is not there.
const codeAway = "client-away"

// missing looks after the subscribers that block and are not there: after their
// time they are forgotten, or, where a maintenance waits for one, it is lost.
func (s *Service) missing(now time.Time) {
	var blocking []string
	err := s.journal.View(func(tx *journal.Tx) error {
		for id, sub := range journal.Records[subscriber](tx, journal.Subscribers) {
			if sub.Blocking {
				blocking = append(blocking, id)
			}
		}
		return nil
	})
	if err != nil {
		return
	}
	var late []string
	s.mu.Lock()
	for _, id := range blocking {
		if s.streams[id] != nil {
			continue
		}
		since, known := s.away[id]
		if !known {
			s.away[id] = now // the agent was away itself
		} else if now.Sub(since) >= s.options.LostAfter {
			late = append(late, id)
		}
	}
	s.mu.Unlock()
	for _, id := range late {
		s.lose(id)
	}
}

// lose gives up on a subscriber. One that a maintenance waits for stays, so that a
// person decides about it; its objection withdraws itself when it comes back.
func (s *Service) lose(id string) {
	_, err := s.update(func(t *turn) error {
		c, err := t.census()
		if err != nil {
			return err
		}
		waited := false
		for name, users := range c.subscribers() {
			for _, u := range users {
				if u.Kind != kindSubscriber || !strings.HasPrefix(u.ID, subscriberUse(id, "")) || u.Owner != ownerOf(id) {
					continue
				}
				here, err := t.lose(name, u)
				if err != nil {
					return err
				}
				waited = waited || here
			}
		}
		if waited {
			return nil
		}
		return journal.Drop(t.tx, journal.Subscribers, id)
	})
	if err != nil && s.ctx.Err() == nil {
		s.log.Error("a subscriber that is away could not be given up", "subscriber", id, "err", err)
	}
}

// lose objects for a subscriber's use of a device where a maintenance waits for it.
func (t *turn) lose(name string, u user) (waited bool, err error) {
	w, err := t.ward(name)
	if err != nil {
		return false, err
	}
	o, told := w.rec.Host.Outcome(u.ID)
	if !told {
		return false, nil
	}
	switch o.State {
	case protocol.UseReady, protocol.UseObjected, protocol.UseRollingBack:
		return true, nil
	}
	t.host(w, protocol.Answered{
		Use: u.ID, Stamp: w.rec.Host.Order.Stamp, Boot: w.rec.Host.Boot, Answer: protocol.Object,
		Reason: protocol.Reason{Code: codeAway, Text: "its client went away and did not come back", Retryable: true},
	})
	return true, t.run(w)
}

// cameBack takes back what was objected for a subscriber while it was away.
func (s *Service) cameBack(id string) {
	_, err := s.update(func(t *turn) error {
		c, err := t.census()
		if err != nil {
			return err
		}
		for name, users := range c.subscribers() {
			for _, u := range users {
				if u.Owner != ownerOf(id) {
					continue
				}
				w, err := t.ward(name)
				if err != nil {
					return err
				}
				if o, told := w.rec.Host.Outcome(u.ID); told && o.State == protocol.UseObjected && o.Reason != nil && o.Reason.Code == codeAway {
					t.host(w, protocol.Answered{Use: u.ID, Stamp: w.rec.Host.Order.Stamp, Boot: w.rec.Host.Boot, Answer: protocol.Withdraw})
				}
			}
		}
		return nil
	})
	if err != nil && s.ctx.Err() == nil {
		s.log.Error("a subscriber's return could not be recorded", "subscriber", id, "err", err)
	}
}

// blockersOf names who keeps a device waiting, for people.
func blockersOf(w *ward) (by []primitives.Blocker) {
	if w.man != nil {
		for _, b := range w.man.Device.Blockers() {
			by = append(by, blocker(b))
		}
		return by
	}
	h := &w.rec.Host
	for _, o := range h.Outcomes {
		if o.State == protocol.UseObjected || o.State == protocol.UseLost {
			b := protocol.Blocker{Host: h.ID, Use: o.ID, Name: o.Subject}
			if o.Reason != nil {
				b.Reason = o.Reason.Text
			}
			by = append(by, blocker(b))
		}
	}
	for _, f := range h.Foreign {
		by = append(by, blocker(protocol.Blocker{Host: h.ID, Name: f.Name, Reason: f.Path}))
	}
	return by
}

func blocker(b protocol.Blocker) primitives.Blocker {
	name := b.Name
	kind := "process"
	switch {
	case b.Use != "":
		kind, name = "use", b.Use
		if b.Name != "" {
			name += " (" + b.Name + ")"
		}
	case b.Name == "":
		kind, name = "host", b.Host
	}
	if b.Reason != "" {
		name += ": " + b.Reason
	}
	return primitives.Blocker{Kind: kind, Name: name}
}
