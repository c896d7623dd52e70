// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// subscriber is one subscription as the journal keeps it: who blocks is waited for
// also while it is away.
type subscriber struct {
	Name     string
	Device   string // empty: all
	Blocking bool
	Caller   string
	Since    time.Time
	Stamps   map[string]protocol.Stamp // by device: of the admission
}

// subscriberUse is the id of a subscription's use of one device.
func subscriberUse(id, device string) string { return "subscriber-" + id + "-" + device }

// ownerOf is who alone answers for a subscription's uses: whoever holds it.
func ownerOf(id string) string { return "subscriber " + id }

// Subscription is one client that is told of maintenances and answers for itself.
// It is safe for concurrent use.
type Subscription struct {
	s       *Service
	id      string
	request SubscribeRequest

	mu      sync.Mutex // guards what follows
	pending map[string]Notice
	order   []string // devices with something pending, oldest first
	device  string   // the device that was told of last: who has one device answers for that
	wake    chan struct{}
	notices chan Notice
	ended   bool
	done    chan struct{}
}

// Subscribe registers a client, or registers it again under its ID, which ends
// its former subscription here. One that blocks is a use of its device from here
// on: while the gate is closed it is refused as any other use, unless it was there
// before. It stays one while it is away for a while; who is away longer is
// forgotten, or, where a maintenance waits for it, lost. The present orders are
// told at once.
func (s *Service) Subscribe(ctx context.Context, r SubscribeRequest) (*Subscription, error) {
	if err := checkSubscribe(r); err != nil {
		return nil, err
	}
	if err := s.admitSubscriber(r); err != nil {
		return nil, err
	}
	sub := &Subscription{
		s: s, id: r.ID, request: r, pending: make(map[string]Notice),
		wake: make(chan struct{}, 1), notices: make(chan Notice), done: make(chan struct{}),
	}
	s.mu.Lock()
	if err := s.stopping(ctx); err != nil {
		s.mu.Unlock()
		return nil, err
	}
	former := s.streams[r.ID]
	s.streams[r.ID] = sub
	delete(s.away, r.ID)
	s.work.Go(sub.deliver)
	s.mu.Unlock()
	if former != nil {
		former.end()
	}
	s.tellNow(sub)
	s.cameBack(r.ID)
	s.poke()
	return sub, nil
}

func checkSubscribe(r SubscribeRequest) error {
	var problems []primitives.Problem
	if r.ID == "" || len(r.ID) > 64 || strings.ContainsFunc(r.ID, func(c rune) bool { return c <= ' ' || c > '~' || c == '/' }) {
		problems = append(problems, primitives.Invalid("id", "%q: expected 1 to 64 printable bytes without blanks and slashes, always the same for one client", r.ID).Problems...)
	}
	if len(r.Name) > 256 {
		problems = append(problems, primitives.Invalid("name", "it has %d bytes; expected at most 256", len(r.Name)).Problems...)
	}
	if len(problems) > 0 {
		return &primitives.Error{Code: primitives.CodeInvalid, Problems: problems}
	}
	return nil
}

// admitSubscriber records a subscription, and asks the gate where it is to block.
func (s *Service) admitSubscriber(r SubscribeRequest) error {
	return s.journal.Update(func(tx *journal.Tx) error {
		had, known, err := journal.Find[subscriber](tx, journal.Subscribers, r.ID)
		if err != nil {
			return err
		}
		if known && had.Blocking && (had.Device != r.Device || !r.Blocking) {
			return primitives.Errorf(primitives.CodeConflict, "the subscription %q is of another device, or blocks", r.ID).
				Trying("use another id, or the same device and kind as before")
		}
		next := subscriber{Name: r.Name, Device: r.Device, Blocking: r.Blocking, Caller: r.Caller, Since: time.Now().UTC(), Stamps: had.Stamps}
		if next.Name == "" {
			next.Name = r.ID
		}
		if r.Blocking && !known {
			if next.Stamps, err = enter(tx, r); err != nil {
				return err
			}
		} else if r.Device != "" {
			if _, err := tx.Device(r.Device); err != nil {
				return err
			}
		}
		return journal.Put(tx, journal.Subscribers, r.ID, next)
	})
}

// enter asks the gates of the devices that a subscription is about.
func enter(tx *journal.Tx, r SubscribeRequest) (map[string]protocol.Stamp, error) {
	about := []string{r.Device}
	if r.Device == "" {
		devices, err := tx.Devices()
		if err != nil {
			return nil, err
		}
		about = nil
		for _, d := range devices {
			about = append(about, d.Name)
		}
	}
	stamps := make(map[string]protocol.Stamp)
	for _, name := range about {
		stamp, err := admitted(tx, name, subscriberUse(r.ID, name))
		if err != nil {
			return nil, err
		}
		stamps[name] = stamp
	}
	return stamps, nil
}

// tellNow gives a new subscription the orders that count now.
func (s *Service) tellNow(sub *Subscription) {
	_ = s.peek(func(t *turn) error {
		devices, err := t.tx.Devices()
		if err != nil {
			return err
		}
		for _, d := range devices {
			if sub.request.Device != "" && sub.request.Device != d.Name {
				continue
			}
			w, err := t.ward(d.Name)
			if err != nil {
				return err
			}
			if len(w.rec.Host.Order.IDs) > 0 {
				sub.post(w.notice(sub))
			}
		}
		return nil
	})
}

// notice is what a subscription is told of a device.
func (w *ward) notice(sub *Subscription) Notice {
	n := Notice{Device: w.name, Order: w.rec.Host.Order}
	if sub.request.Blocking {
		n.Use = subscriberUse(sub.id, w.name)
	}
	return n
}

// notify accepts for what works in the agent: it comes to its end by itself.
func (s *Service) notify(name string, a protocol.Notify) {
	_ = s.happened(name, func(_ *turn, w *ward) (protocol.HostEvent, error) {
		if o, told := w.rec.Host.Outcome(a.Use); !told || o.State != protocol.UseNotified {
			return nil, nil
		}
		return protocol.Answered{Use: a.Use, Stamp: w.rec.Host.Order.Stamp, Boot: w.rec.Host.Boot, Answer: protocol.Accept}, nil
	})
}

// tellSubscribers passes a changed order on to those who asked; mu is held.
func (s *Service) tellSubscribers(w *ward) {
	for _, sub := range s.streams {
		if sub.request.Device == "" || sub.request.Device == w.name {
			sub.post(w.notice(sub))
		}
	}
}

// post puts a notice in place of the one before about the same device.
func (u *Subscription) post(n Notice) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, waiting := u.pending[n.Device]; !waiting {
		u.order = append(u.order, n.Device)
	}
	u.pending[n.Device] = n
	select {
	case u.wake <- struct{}{}:
	default: // it is awake
	}
}

// deliver hands out notices until the subscription ends.
func (u *Subscription) deliver() {
	defer close(u.notices)
	for {
		u.mu.Lock()
		var next Notice
		if len(u.order) > 0 {
			next = u.pending[u.order[0]]
			delete(u.pending, u.order[0])
			u.order = u.order[1:]
		}
		u.mu.Unlock()
		if next.Device == "" {
			select {
			case <-u.wake:
				continue
			case <-u.done:
				return
			}
		}
		u.mu.Lock()
		u.device = next.Device
		u.mu.Unlock()
		select {
		case u.notices <- next:
		case <-u.done:
			return
		}
	}
}

// end stops delivery.
func (u *Subscription) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.ended {
		u.ended = true
		close(u.done)
	}
}

// Notices are what is ordered, each time that it changes; of one device only the
// newest. The channel is closed when the subscription ended, or was registered
// anew elsewhere.
func (u *Subscription) Notices() <-chan Notice { return u.notices }

// Accept says that the client gets ready, and when it expects to be.
func (u *Subscription) Accept(_ context.Context, eta time.Duration) error {
	return u.answer(protocol.Answered{Answer: protocol.Accept, ETA: eta})
}

// Progress says that the client lives and works.
func (u *Subscription) Progress(_ context.Context, percent float64) error {
	return u.answer(protocol.Answered{Answer: protocol.Progress, Percent: percent})
}

// Ready says that the client is ready.
func (u *Subscription) Ready(_ context.Context, how protocol.How, evidence string) error {
	return u.answer(protocol.Answered{Answer: protocol.Ready, How: how, Evidence: evidence})
}

// Object says that the client refuses, and why.
func (u *Subscription) Object(_ context.Context, reason protocol.Reason) error {
	return u.answer(protocol.Answered{Answer: protocol.Object, Reason: reason})
}

// Withdraw takes an objection back.
func (u *Subscription) Withdraw(context.Context) error {
	return u.answer(protocol.Answered{Answer: protocol.Withdraw})
}

// answer answers for the device that the client was told of last.
func (u *Subscription) answer(e protocol.Answered) error {
	u.mu.Lock()
	device, ended := u.device, u.ended
	u.mu.Unlock()
	switch {
	case ended:
		return primitives.Errorf(primitives.CodeUnavailable, "the subscription %q ended", u.id).Trying("register again with the same id")
	case !u.request.Blocking:
		return primitives.Errorf(primitives.CodeUnsupported, "the subscription %q does not block, so nobody waits for its answer", u.id).
			Trying("register it as blocking")
	case device == "" && u.request.Device != "":
		device = u.request.Device
	case device == "":
		return primitives.Errorf(primitives.CodeConflict, "the subscription %q was told of no maintenance yet", u.id)
	}
	e.By = ownerOf(u.id)
	return u.s.answered("", subscriberUse(u.id, device), 0, e)
}

// Close ends the client's presence. What blocks goes on blocking: the client may
// come back with its ID, and is lost when it does not within its time.
func (u *Subscription) Close() {
	u.s.mu.Lock()
	if u.s.streams[u.id] == u {
		delete(u.s.streams, u.id)
		u.s.away[u.id] = time.Now()
	}
	u.s.mu.Unlock()
	u.end()
	if !u.request.Blocking {
		_ = u.s.forgetSubscriber(u.id)
	}
}

// Leave ends the subscription for good: the client uses the device no more.
func (u *Subscription) Leave() error {
	u.Close()
	err := u.s.forgetSubscriber(u.id)
	u.s.poke()
	return err
}

func (s *Service) forgetSubscriber(id string) error {
	return s.journal.Update(func(tx *journal.Tx) error { return journal.Drop(tx, journal.Subscribers, id) })
}

// unblock forgets the subscription of a use.
func (s *Service) unblock(use string) error {
	return s.journal.Update(func(tx *journal.Tx) error {
		for id, sub := range journal.Records[subscriber](tx, journal.Subscribers) {
			prefix := subscriberUse(id, "")
			if name, is := strings.CutPrefix(use, prefix); is && (sub.Device == "" || sub.Device == name) {
				return journal.Drop(tx, journal.Subscribers, id)
			}
		}
		return nil
	})
}
