// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"bytes"
	"math"
	"os"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// mirror is a copy of a disk under way. A change replaces it as a whole.
type mirror struct {
	source      hypervisor.Source // where it goes
	isZero      bool              // and that has no data yet
	bandwidth   int64
	size        int64
	done, total int64 // the total of a copy that is outrun grows beyond the size
	ready       bool
	synchronous bool // writes of the guest wait for both sides
}

// failure is how a copy ended.
type failure struct {
	to  hypervisor.Source
	why string
	at  int
}

// wholeCopy is the pace at which one look is enough.
const wholeCopy = math.MaxInt64

// PaceMoves sets how many bytes each MoveStatus lets a copy do after it has
// answered, which a move's Bandwidth limits as if looks were a second apart. A new host's
// copies are ready after one look; 0 leaves them to Copy.
func (h *Host) PaceMoves(bytes int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pace = bytes
}

// Copy lets the copy of a disk get on by so many bytes.
func (h *Host) Copy(id hypervisor.DomainID, disk hypervisor.DiskID, bytes int64) {
	h.at(id, func(d *domain) { h.advance(d, disk, bytes) })
}

// Outrun makes a domain's guest write as fast as any copy that does not converge, so that
// none of them becomes ready, until rest is called.
func (h *Host) Outrun(id hypervisor.DomainID) (rest func()) {
	return h.manner(id, func(d *domain, on bool) { d.outruns = on && d.up })
}

// FailMove ends the copy of a disk with an error, as a target that is full does. An
// empty one makes the copy vanish, and nobody can say why.
func (h *Host) FailMove(id hypervisor.DomainID, disk hypervisor.DiskID, why string) {
	h.at(id, func(d *domain) { h.fail(d, disk, why) })
}

// LoseSwitch puts the guest of a disk whose copy is ready on the target, and the host
// forgets it: as a hypervisor's daemon does that dies within the switch.
func (h *Host) LoseSwitch(id hypervisor.DomainID, disk hypervisor.DiskID) {
	h.at(id, func(d *domain) {
		v := d.view()
		if x := find(v.live, disk); x != nil && x.copy != nil && x.copy.ready {
			x.astray, x.job = true, ""
			d.live = v.live
		}
	})
}

// fail ends a copy; mu is held.
func (h *Host) fail(d *domain, disk hypervisor.DiskID, why string) {
	v := d.view()
	x := find(v.live, disk)
	if x == nil || x.copy == nil {
		return
	}
	if d.failures == nil {
		d.failures = map[hypervisor.DiskID]failure{}
	}
	d.failures[disk] = failure{to: x.copy.source, why: why, at: h.nextInstance()}
	x.job, x.copy = "", nil
	d.live = v.live
}

// copyTo begins a copy; mu is held.
func (h *Host) copyTo(d *domain, r hypervisor.MoveRequest) error {
	v := d.view()
	x := find(v.live, r.Disk)
	m := mirror{source: sourceOf(r.To), isZero: r.ToIsZero, bandwidth: r.Bandwidth, size: r.To.Size, total: r.To.Size}
	if err := h.open(disk{target: x.target, access: primitives.ReadWrite, source: m.source}); err != nil {
		return err
	}
	delete(d.failures, r.Disk)
	x.job, x.copy = jobCopy, &m
	d.live = v.live
	return nil
}

// advance copies so many bytes more; mu is held.
func (h *Host) advance(d *domain, id hypervisor.DiskID, n int64) {
	v := d.view()
	x := find(v.live, id)
	if x == nil || x.copy == nil || x.copy.ready || d.stalled {
		return
	}
	m := *x.copy
	if m.bandwidth > 0 {
		n = min(n, m.bandwidth)
	}
	n = min(n, m.total-m.done)
	if d.outruns && !m.synchronous {
		m.total += n
	} else {
		if err := copyRange(x.source, m, m.done-(m.total-m.size), n); err != nil {
			h.fail(d, id, err.Error())
			h.changed(d.id)
			return
		}
		m.ready = m.done+n == m.total
	}
	m.done += n
	x.copy, d.live = &m, v.live
	if m.ready {
		h.changed(d.id)
	}
}

// Write does what a guest does that writes to a disk, in the way of raw images:
// to the disk and, where a copy of it runs, to its target.
func (h *Host) Write(id hypervisor.DomainID, disk hypervisor.DiskID, offset int64, data []byte) (err error) {
	h.see(id, func(d *domain) {
		x := find(d.live, disk)
		if x == nil {
			err = noDisk(id, disk)
			return
		}
		if !x.astray {
			err = writeAt(x.source, offset, data)
		}
		if err == nil && x.copy != nil {
			err = writeAt(x.copy.source, offset, data)
		}
	})
	return err
}

const chunk = 1 << 20

// copyRange copies bytes between raw images, where there are files behind both.
func copyRange(from hypervisor.Source, m mirror, start, n int64) error {
	if !raw(from) || !raw(m.source) {
		return nil
	}
	f, err := os.Open(from.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf, zero := make([]byte, chunk), make([]byte, chunk)
	for end := start + n; start < end; start += chunk {
		part := buf[:min(chunk, end-start)]
		got, _ := f.ReadAt(part, start)
		part = part[:got]
		if m.isZero && bytes.Equal(part, zero[:got]) {
			continue
		}
		if err := writeAt(m.source, start, part); err != nil {
			return err
		}
	}
	return nil
}

func writeAt(s hypervisor.Source, offset int64, data []byte) (err error) {
	if !raw(s) || len(data) == 0 {
		return nil
	}
	f, err := os.OpenFile(s.Path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	_, err = f.WriteAt(data, offset)
	return err
}

// raw reports whether an image is a file of the guest's bytes.
func raw(s hypervisor.Source) bool {
	_, there := stat(s.Path)
	return there && s.Path != "" && s.Format == primitives.FormatRaw
}
