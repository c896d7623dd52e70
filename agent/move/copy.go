// SPDX-License-Identifier: Apache-2.0

package move

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// requestOf is what the hypervisor is asked about one disk.
func requestOf(r *run, d *disk) hypervisor.MoveRequest {
	to := d.OnTarget
	if d.mapped != nil {
		to = *d.mapped
	}
	return hypervisor.MoveRequest{
		Domain: r.Memory.Domain, Disk: d.ID, From: d.OnSource, To: to, ToIsZero: d.IsZero, Bandwidth: r.Args.Bandwidth,
	}
}

// copy begins to copy every disk, or goes on with copies that run, and returns
// when all of them are ready.
func (s *Service) copy(ctx context.Context, r *run) error {
	m, err := s.mover()
	if err != nil {
		return err
	}
	all := make([]int, 0, len(r.Memory.Disks))
	for i := range r.Memory.Disks {
		d := &r.Memory.Disks[i]
		if d.mapped == nil { // begun by an earlier tenond, or before a reboot
			if _, err := s.serveOne(ctx, r, i); err != nil {
				return err
			}
		}
		all = append(all, i)
	}
	return s.copySome(ctx, m, r, all)
}

// copySome begins to copy some disks and waits until they are ready.
func (s *Service) copySome(ctx context.Context, m hypervisor.Mover, r *run, which []int) error {
	for _, i := range which {
		d := &r.Memory.Disks[i]
		err := s.persist(ctx, r, func(ctx context.Context) error { return m.StartMove(ctx, requestOf(r, d)) })
		if err != nil {
			return s.naming(ctx, d, err)
		}
	}
	w := &watch{s: s, r: r, m: m, which: which, paces: make([]pace, len(r.Memory.Disks)), heard: time.Now()}
	ticker := time.NewTicker(s.options.Poll)
	defer ticker.Stop()
	for {
		if ready, err := w.round(ctx); ready || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// passing reports whether an error of the hypervisor may be over in a moment: it is
// away, as while libvirt is restarted, or it has not let go of something yet.
func passing(err error) bool {
	return errors.Is(err, primitives.CodeUnavailable) || errors.Is(err, primitives.CodeInUse)
}

// persist repeats a call as long as its error may pass, and no longer than one call
// may take.
func (s *Service) persist(ctx context.Context, r *run, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	ticker := time.NewTicker(s.options.Poll)
	defer ticker.Stop()
	for told := false; ; told = true {
		err := call(ctx)
		if !passing(err) {
			return err
		}
		if !told {
			r.Log.WarnContext(ctx, "call of the hypervisor is repeated", "err", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return err
		}
	}
}

func status(ctx context.Context, m hypervisor.Mover, q hypervisor.MoveRequest) (hypervisor.MoveStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return m.MoveStatus(ctx, q)
}

// watch follows the copies of one operation.
type watch struct {
	s     *Service
	r     *run
	m     hypervisor.Mover
	which []int // of the disks
	paces []pace
	heard time.Time // when the hypervisor last answered
}

// round looks at every copy once, and reports whether all are ready. A ready one
// is looked at too: it may yet fail while others are waited for.
func (w *watch) round(ctx context.Context) (ready bool, err error) {
	ready = true
	var p primitives.Progress
	for _, i := range w.which {
		d := &w.r.Memory.Disks[i]
		st, err := status(ctx, w.m, requestOf(w.r, d))
		if passing(err) && ctx.Err() == nil && time.Since(w.heard) < w.s.options.Stall {
			// The job is QEMU's and goes on while libvirt is away.
			w.r.Log.DebugContext(ctx, "copy cannot be looked at", "disk", d.ID, "err", err)
			return false, nil
		}
		if err != nil {
			return false, err
		}
		w.heard = time.Now()
		p.Done, p.Total = p.Done+st.Done, p.Total+st.Total
		done, err := w.one(ctx, i, st)
		if err != nil {
			return false, err
		}
		ready = ready && done
	}
	p.Note = fmt.Sprintf("copying %d disks", len(w.which))
	if len(w.which) == 1 {
		p.Note = "copying " + w.r.Memory.Disks[w.which[0]].Target
	}
	if ready {
		p.Note = "both sides are equal"
	}
	w.r.Report(p)
	return ready, nil
}

func (w *watch) one(ctx context.Context, i int, st hypervisor.MoveStatus) (ready bool, err error) {
	d := &w.r.Memory.Disks[i]
	switch st.Phase {
	case hypervisor.MoveReady, hypervisor.MoveHalf, hypervisor.MoveDone:
		d.Bytes = max(d.Bytes, st.Total)
		return true, nil
	case hypervisor.MoveNone:
		return false, w.s.ended(ctx, d, st.Failure, "nothing was moved")
	}
	switch w.paces[i].look(st, time.Now(), w.s.options.Stall) {
	case stuck:
		return false, primitives.Errorf(primitives.CodeUnavailable, "the copy to %s has shown no progress for %v", d.To.Short(), w.s.options.Stall).
			On(d.Use.URI).Trying("look whether %s and %s answer: tenonctl device check", d.Use.URI.Device, d.To.Device)
	case converge:
		w.r.Log.InfoContext(ctx, "guest outruns the copy of its disk; its writes wait for both sides now", "disk", d.ID)
		ctx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		if err := w.m.Converge(ctx, requestOf(w.r, d)); err != nil {
			return false, err
		}
	case wait:
	}
	return false, nil
}

// cancel ends the copies; the disks show their sources as before.
func (s *Service) cancel(ctx context.Context, r *run) error {
	m, err := s.mover()
	if err != nil {
		return err
	}
	for i := range r.Memory.Disks {
		d := &r.Memory.Disks[i]
		if d.OnTarget.ID == "" {
			continue // not even mapped
		}
		err := s.persist(ctx, r, func(ctx context.Context) error { return m.CancelMove(ctx, requestOf(r, d)) })
		if err != nil && !errors.Is(err, primitives.CodeNotFound) {
			return err
		}
	}
	return nil
}
