// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

const (
	copyBlock   = 1 << 20  // bytes that are read and written at once
	copyWorkers = 4        // where the target takes any order; bounds the buffers
	copyHole    = 64 << 10 // zeros of that length and alignment stay a hole; a qcow2 cluster
)

var zeroHole = make([]byte, copyHole)

// transfer moves the bytes of one copy.
type transfer struct {
	src     *Device
	from    primitives.URI
	r       primitives.Reader
	w       primitives.Writer
	tail    int64 // the target's size
	fill    bool  // unwritten bytes of the target may not be zero
	workers int
	report  func(primitives.Progress)

	mu   sync.Mutex // guards done
	done int64

	busy sync.WaitGroup // workers, which own their buffers
}

// block is a range to move, or one that is known to be zero.
type block struct {
	off, n int64
	zero   bool
}

// run moves everything. It returns soon after ctx ends, even if the drivers
// hang; their workers then end when the drivers do.
func (t *transfer) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	blocks := make(chan block, t.workers)
	for range t.workers {
		t.busy.Go(func() {
			if err := t.work(ctx, blocks); err != nil {
				cancel(err)
			}
		})
	}
	for b := range t.plan(ctx) {
		select {
		case blocks <- b:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(blocks)
	return t.wait(ctx)
}

// wait waits for the workers, not much longer than ctx.
func (t *transfer) wait(ctx context.Context) error {
	idle := make(chan struct{})
	go func() { t.busy.Wait(); close(idle) }()
	select {
	case <-idle:
	case <-ctx.Done():
		late := time.NewTimer(grace)
		defer late.Stop()
		select {
		case <-idle:
		case <-late.C:
		}
	}
	if ctx.Err() == nil {
		return nil
	}
	if cause, typed := errors.AsType[*primitives.Error](context.Cause(ctx)); typed {
		return cause // a worker's, or the listing's
	}
	return ended(ctx)
}

// closeReader gives the source back once no worker uses it.
func (t *transfer) closeReader() {
	closed := make(chan struct{})
	go func() {
		t.busy.Wait()
		_ = t.r.Close()
		close(closed)
	}()
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case <-closed:
	case <-late.C:
	}
}

func (t *transfer) work(ctx context.Context, blocks <-chan block) error {
	buf := make([]byte, copyBlock)
	for b := range blocks {
		if err := ended(ctx); err != nil {
			return err
		}
		if err := t.move(b, buf); err != nil {
			return err
		}
		t.advance(b.n)
	}
	return nil
}

// move copies one block, leaving out what is zero.
func (t *transfer) move(b block, buf []byte) error {
	if b.zero {
		return t.zero(b)
	}
	n, err := t.r.ReadAt(buf[:b.n], b.off)
	if int64(n) < b.n {
		if err == nil || errors.Is(err, io.EOF) {
			err = classify("read-at", t.from, fmt.Errorf("%d of %d bytes at %d: %w", n, b.n, b.off, io.ErrUnexpectedEOF))
		}
		return err
	}
	for run := range runs(buf[:b.n], b.off) {
		if run.zero {
			err = t.zero(run)
		} else {
			_, err = t.w.WriteAt(buf[run.off-b.off:][:run.n], run.off)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// runs divides p, which stands at off, into zeros worth a hole and other bytes.
func runs(p []byte, off int64) iter.Seq[block] {
	return func(yield func(block) bool) {
		run := block{off: off}
		for at := 0; at < len(p); {
			// Holes are aligned in the volume, not in p.
			end := min(at+copyHole-int((off+int64(at))%copyHole), len(p))
			zero := bytes.Equal(p[at:end], zeroHole[:end-at])
			if run.n > 0 && zero != run.zero {
				if !yield(run) {
					return
				}
				run = block{off: off + int64(at)}
			}
			run.zero = zero
			run.n += int64(end - at)
			at = end
		}
		if run.n > 0 {
			yield(run)
		}
	}
}

func (t *transfer) zero(b block) error {
	if !t.fill {
		return nil
	}
	return t.w.ZeroAt(b.off, b.n)
}

func (t *transfer) advance(n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done += n
	if t.report != nil {
		t.report(primitives.Progress{Done: t.done, Total: t.tail})
	}
}

// plan yields the blocks of the whole target, in order: what the source says it
// has, and everything else as zero.
func (t *transfer) plan(ctx context.Context) iter.Seq[block] {
	return func(yield func(block) bool) {
		size := t.r.Size()
		for run := range t.src.Runs(ctx, t.from, 0, size) {
			if !pieces(yield, run.Off, run.Off+run.Len, run.Zero) {
				return
			}
		}
		pieces(yield, size, t.tail, true)
	}
}

// pieces yields a range in blocks.
func pieces(yield func(block) bool, from, to int64, zero bool) bool {
	most := int64(copyBlock)
	if zero {
		most = 1 << 30 // needs no buffer
	}
	for from < to {
		n := min(most, to-from)
		if !yield(block{off: from, n: n, zero: zero}) {
			return false
		}
		from += n
	}
	return true
}
