// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/tenon-storage/tenon/primitives"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
)

// Object objects in the name of a use: its device is Blocked until the objection
// is withdrawn or overruled. CodeNotFound for a use of no device that a
// maintenance is announced of, CodeDenied for another client's, CodeConflict for
// an older epoch or once the device is being fenced.
func (s *Service) Object(ctx context.Context, r ObjectRequest) error {
	if r.Code == "" {
		return primitives.Invalid("code", "it is empty; expected a word by which programs know the reason")
	}
	_, err := s.call(ctx, kindObject, r.RequestID, r.Caller, answerArgs{
		Use: r.Use, Epoch: r.Epoch,
		Reason: protocol.Reason{Code: r.Code, Text: r.Text, Retryable: r.Retryable || r.Until > 0, RetryIn: r.Until},
	})
	return err
}

// Withdraw takes an objection back.
func (s *Service) Withdraw(ctx context.Context, r AnswerRequest) error {
	_, err := s.call(ctx, kindWithdraw, r.RequestID, r.Caller, answerArgs{Use: r.Use, Epoch: r.Epoch})
	return err
}

// Ready says that a use is ready. What the host shows is believed before it: a
// disk is ready when it is gone, whatever is said of it.
func (s *Service) Ready(ctx context.Context, r ReadyRequest) error {
	switch r.How {
	case protocol.Moved, protocol.Detached, protocol.Paused, protocol.Stopped, protocol.Closed, protocol.Tolerates, protocol.Removed:
	default:
		return primitives.Invalid("how", "%q: expected moved, detached, paused, stopped, closed, tolerates or removed", r.How)
	}
	_, err := s.call(ctx, kindReady, r.RequestID, r.Caller, answerArgs{Use: r.Use, Epoch: r.Epoch, How: r.How, Evidence: r.Evidence})
	return err
}

func (s *Service) object(_ context.Context, op, caller string, a answerArgs) error {
	return s.answered(op, a.Use, a.Epoch, protocol.Answered{By: caller, Answer: protocol.Object, Reason: a.Reason})
}

func (s *Service) withdraw(_ context.Context, op, caller string, a answerArgs) error {
	return s.answered(op, a.Use, a.Epoch, protocol.Answered{By: caller, Answer: protocol.Withdraw})
}

func (s *Service) ready(_ context.Context, op, caller string, a answerArgs) error {
	return s.answered(op, a.Use, a.Epoch, protocol.Answered{By: caller, Answer: protocol.Ready, How: a.How, Evidence: a.Evidence})
}

// answered steps an answer, once for each operation; "": it belongs to none.
// Epoch 0 means the present one.
func (s *Service) answered(op, use string, epoch uint64, e protocol.Answered) error {
	_, err := s.update(func(t *turn) error {
		w, err := t.wardOf(use)
		if err != nil {
			return err
		}
		e.Use, e.Boot, e.Stamp = use, w.rec.Host.Boot, w.rec.Host.Order.Stamp
		if epoch != 0 {
			e.Stamp.Epoch = epoch
		}
		step := func() error {
			t.host(w, e)
			w.limit(use, e, t.now)
			return errors.Join(t.run(w), w.refused(use))
		}
		if op == "" {
			return step()
		}
		return w.apply(op, step)
	})
	if e, stale := errors.AsType[*protocol.Error](err); stale && e.Code == protocol.Stale {
		s.mu.Lock()
		s.metrics.StaleAnswers++
		s.mu.Unlock()
	}
	return err
}

// limit notes until when an objection stands, where it does not for ever. A
// client that holds a subscription withdraws for itself.
func (w *ward) limit(use string, e protocol.Answered, now time.Time) {
	delete(w.rec.Until, use)
	if e.Answer != protocol.Object || e.Reason.RetryIn <= 0 || strings.HasPrefix(e.By, ownerOf("")) {
		return
	}
	if w.rec.Until == nil {
		w.rec.Until = make(map[string]time.Time)
	}
	w.rec.Until[use] = now.Add(e.Reason.RetryIn)
}

// refused returns why a use's answer did not count; nil: it did.
func (w *ward) refused(use string) error {
	for _, r := range w.rejected {
		if r.Use == use {
			return refusal(w.name, r.Err)
		}
	}
	return nil
}

// wardOf returns the device that told a use of a maintenance.
func (t *turn) wardOf(use string) (*ward, error) {
	c, err := t.census()
	if err != nil {
		return nil, err
	}
	if name, known := c.where(use); known {
		return t.ward(name)
	}
	devices, err := t.tx.Devices()
	if err != nil {
		return nil, err
	}
	for _, d := range devices { // a use that was released, but whose data is awaited elsewhere
		w, err := t.ward(d.Name)
		if err != nil {
			return nil, err
		}
		if _, told := w.rec.Host.Outcome(use); told {
			return w, nil
		}
	}
	return nil, primitives.Errorf(primitives.CodeNotFound, "no device has a use %q", use).
		Trying("see: tenonctl maintenance status DEVICE")
}
