// SPDX-License-Identifier: Apache-2.0

package fake

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// Name is the adapter's name.
const Name = "fake"

var accepts = []primitives.Acceptable{
	{Form: primitives.FormBlock},
	{Form: primitives.FormFile, Format: primitives.FormatRaw},
	{Form: primitives.FormFile, Format: primitives.FormatQcow2},
	{Form: primitives.FormNetwork, Protocol: "nbd"},
}

// Adapter is one connection to a Host.
type Adapter struct {
	host   *Host
	closed chan struct{}
	once   sync.Once
}

var _ hypervisor.Adapter = (*Adapter)(nil)

// Open returns a new adapter on the host.
func (h *Host) Open() *Adapter { return &Adapter{host: h, closed: make(chan struct{})} }

// Info describes the adapter.
func (a *Adapter) Info(context.Context) hypervisor.Info {
	info := hypervisor.Info{Name: Name, Hypervisor: "fake 1", Library: "none 1", Connected: true, Accepts: slices.Clone(accepts)}
	if a.usable(context.Background()) != nil {
		info.Connected, info.Note = false, "the adapter is closed"
	}
	return info
}

func (a *Adapter) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return &primitives.Error{Code: primitives.CodeOf(err), Err: err}
	}
	select {
	case <-a.closed:
		return primitives.Errorf(primitives.CodeUnavailable, "the adapter is closed")
	default:
		return nil
	}
}

// look runs f on a domain under the host's lock. CodeNotFound.
func (a *Adapter) look(ctx context.Context, id hypervisor.DomainID, f func(*domain) error) error {
	if err := a.usable(ctx); err != nil {
		return err
	}
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	d := a.host.domains[id]
	if d == nil {
		return primitives.Errorf(primitives.CodeNotFound, "domain %q does not exist", id)
	}
	return f(d)
}

// change is look for what changes something; a stalled domain answers late, or
// not at all.
func (a *Adapter) change(ctx context.Context, call string, id hypervisor.DomainID, f func(*domain) error) error {
	if err := a.ask(call, Before); err != nil {
		return err
	}
	if err := a.answering(ctx, id); err != nil {
		return err
	}
	err := a.look(ctx, id, func(d *domain) error {
		err := f(d)
		a.host.tell(id)
		return err
	})
	if lost := a.ask(call, After); lost != nil {
		return lost
	}
	return err
}

func (a *Adapter) ask(call string, at Point) error {
	a.host.mu.Lock()
	f := a.host.intercept
	a.host.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(call, at)
}

// answering waits for a stalled domain; one that was waited for in vain before
// fails at once.
func (a *Adapter) answering(ctx context.Context, id hypervisor.DomainID) error {
	mute := primitives.Errorf(primitives.CodeUnavailable, "domain %s does not answer", id)
	tired := false
	err := a.host.wait(ctx, func() bool {
		d := a.host.domains[id]
		tired = d != nil && d.stalled && d.gaveUp
		return d == nil || !d.stalled || tired
	})
	if tired {
		return mute
	}
	if err == nil {
		return nil
	}
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	if d := a.host.domains[id]; d != nil {
		d.gaveUp = true
	}
	return &primitives.Error{Code: primitives.CodeUnavailable, Err: errors.Join(mute, err)}
}

// Domains lists the domains.
func (a *Adapter) Domains(ctx context.Context) ([]hypervisor.Domain, error) {
	if err := a.usable(ctx); err != nil {
		return nil, err
	}
	a.host.mu.Lock()
	defer a.host.mu.Unlock()
	var all []hypervisor.Domain
	for _, d := range a.host.domains {
		all = append(all, d.show())
	}
	slices.SortFunc(all, func(a, b hypervisor.Domain) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

func (d *domain) show() hypervisor.Domain {
	out := hypervisor.Domain{ID: d.id, Name: d.name, State: hypervisor.StateOff, Persistent: d.persistent}
	out.Caps = hypervisor.Caps{Switch: true, FreeSlots: slots, Accepts: slices.Clone(accepts)}
	if d.running {
		out.State = hypervisor.StateRunning
		out.Caps.AttachLive, out.Caps.DetachLive, out.Caps.ResizeLive, out.Caps.Snapshot = true, true, true, true
		out.Caps.Freeze = d.agent
		out.Caps.FreeSlots = d.free()
	}
	return out
}

func (d *domain) free() int {
	used := 0
	for _, x := range d.live {
		if x.Bus == "virtio" {
			used++
		}
	}
	return slots - used
}

// Disks lists a domain's disks.
func (a *Adapter) Disks(ctx context.Context, id hypervisor.DomainID) (disks []hypervisor.Disk, err error) {
	err = a.look(ctx, id, func(d *domain) error {
		disks = d.shown()
		return nil
	})
	return disks, err
}

// watcher is one Watch under way.
type watcher struct {
	mu   sync.Mutex // guards ids
	ids  []hypervisor.DomainID
	some chan struct{}
}

func (w *watcher) add(id hypervisor.DomainID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ids = append(w.ids, id)
	select {
	case w.some <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []hypervisor.DomainID {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := w.ids
	w.ids = nil
	return ids
}

// Watch calls wake at changes.
func (a *Adapter) Watch(ctx context.Context, wake func(hypervisor.DomainID)) error {
	w := &watcher{some: make(chan struct{}, 1)}
	w.add("")
	a.host.mu.Lock()
	a.host.watchers[w] = struct{}{}
	a.host.mu.Unlock()
	defer func() {
		a.host.mu.Lock()
		delete(a.host.watchers, w)
		a.host.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-a.closed:
			return primitives.Errorf(primitives.CodeUnavailable, "the adapter is closed")
		case <-w.some:
		}
		for _, id := range w.take() {
			wake(id)
		}
	}
}

// Facets offers everything.
func (a *Adapter) Facets() hypervisor.Facets {
	return hypervisor.Facets{Resize: a, Freeze: a, Switch: a, Power: a, Snapshot: a}
}

// Close ends the connection; the host goes on.
func (a *Adapter) Close() error {
	a.once.Do(func() { close(a.closed) })
	return nil
}

// checkMapping refuses what is no mapping at all, and what is not accepted.
func checkMapping(m primitives.Mapping) error {
	bad := func(format string, args ...any) error { return primitives.Invalid("mapping", format, args...) }
	if m.Access != primitives.ReadOnly && m.Access != primitives.ReadWrite {
		return bad("its access is %d", m.Access)
	}
	switch {
	case m.Form == primitives.FormBlock && m.Block != nil && filepath.IsAbs(m.Block.Path):
	case m.Form == primitives.FormNetwork && m.Network != nil && m.Network.Protocol != "":
	case m.Form == primitives.FormFile && m.File != nil:
		for _, f := range append([]primitives.FileMap{*m.File}, m.File.Backing...) {
			if !filepath.IsAbs(f.Path) || !utf8.ValidString(f.Path) || f.Format == "" {
				return bad("the file %q of format %q cannot be told to a hypervisor", f.Path, f.Format)
			}
		}
	default:
		return bad("it has no part for its form %d", m.Form)
	}
	if !slices.ContainsFunc(accepts, func(a primitives.Acceptable) bool { return a.Takes(m) }) {
		return primitives.Errorf(primitives.CodeUnsupported, "the mapping is not accepted")
	}
	return nil
}

// reachable opens what a hypervisor would open.
func reachable(m primitives.Mapping) error {
	var path string
	switch m.Form {
	case primitives.FormBlock:
		path = m.Block.Path
	case primitives.FormFile:
		path = m.File.Path
	case primitives.FormNetwork:
		path = m.Network.Socket
	}
	if path == "" {
		return nil
	}
	if _, err := os.Stat(path); err != nil {
		return primitives.Errorf(primitives.CodeNotFound, "open the image: %w", err)
	}
	return nil
}

func sourceOf(m primitives.Mapping) hypervisor.Source {
	s := hypervisor.Source{Form: m.Form}
	switch m.Form {
	case primitives.FormBlock:
		s.Path, s.Format = m.Block.Path, primitives.FormatRaw
	case primitives.FormFile:
		s.Path, s.Format = m.File.Path, m.File.Format
		for _, b := range m.File.Backing {
			s.Chain = append(s.Chain, b.Path)
		}
	case primitives.FormNetwork:
		n := *m.Network
		n.Secret = primitives.Secrets{}
		s.Network = &n
	}
	return s
}

// Attach gives a disk to a domain.
func (a *Adapter) Attach(ctx context.Context, r hypervisor.AttachRequest) (result hypervisor.AttachResult, err error) {
	r.Bus = cmp.Or(r.Bus, "virtio")
	if err := checkAttach(r); err != nil {
		return result, err
	}
	err = a.change(ctx, "Attach", r.Domain, func(d *domain) error {
		result, err = a.host.attach(d, r)
		return err
	})
	return result, err
}

func checkAttach(r hypervisor.AttachRequest) error {
	if err := hypervisor.CheckDiskID(r.Disk); err != nil {
		return err
	}
	if r.Bus != "virtio" && r.Bus != "scsi" {
		return primitives.Invalid("bus", "%q: expected virtio or scsi", r.Bus)
	}
	if r.Where > hypervisor.ConfigOnly {
		return primitives.Invalid("where", "%d", r.Where)
	}
	return checkMapping(r.Mapping)
}

func (h *Host) attach(d *domain, r hypervisor.AttachRequest) (hypervisor.AttachResult, error) {
	if !d.running && r.Where == hypervisor.LiveOnly || !d.persistent && r.Where == hypervisor.ConfigOnly {
		return hypervisor.AttachResult{}, primitives.Errorf(primitives.CodeUnsupported, "domain %s has no such half", d.name)
	}
	live, config := find(d.live, r.Disk), find(d.config, r.Disk)
	for _, have := range []*disk{live, config} {
		if have != nil && (have.Detaching || !have.Source.Shows(r.Mapping) || have.Access != r.Mapping.Access || have.Bus != r.Bus) {
			return hypervisor.AttachResult{}, primitives.Errorf(primitives.CodeConflict, "domain %s has a disk %s that is leaving or other", d.name, r.Disk)
		}
	}
	x := &disk{Disk: hypervisor.Disk{
		ID: r.Disk, Domain: d.id, Target: d.target(r.Bus), Serial: string(r.Disk), Bus: r.Bus, Access: r.Mapping.Access, Source: sourceOf(r.Mapping),
	}, size: r.Mapping.Size}
	if have := cmp.Or(live, config); have != nil {
		x.Target = have.Target
	}
	result := hypervisor.AttachResult{Live: hypervisor.Already, Config: hypervisor.Already}
	if !d.running || r.Where == hypervisor.ConfigOnly {
		result.Live = hypervisor.NotAsked
	} else if live == nil {
		if err := h.room(d, r); err != nil {
			return hypervisor.AttachResult{}, err
		}
		d.live = append(d.live, x)
		result.Live = hypervisor.Done
	}
	if !d.persistent || r.Where == hypervisor.LiveOnly {
		result.Config = hypervisor.NotAsked
	} else if config == nil {
		other := *x
		d.config = append(d.config, &other)
		result.Config = hypervisor.Done
	}
	for _, s := range d.shown() {
		if s.ID == r.Disk {
			result.Disk = s
		}
	}
	return result, nil
}

// room refuses what cannot be opened, is open elsewhere, or has no slot.
func (h *Host) room(d *domain, r hypervisor.AttachRequest) error {
	if r.Bus == "virtio" && d.free() == 0 {
		return primitives.Errorf(primitives.CodeNoSpace, "domain %s has no free slot", d.name)
	}
	if err := reachable(r.Mapping); err != nil {
		return err
	}
	for _, other := range h.domains {
		for _, x := range other.live {
			if x.Source.Shows(r.Mapping) && (x.Access == primitives.ReadWrite || r.Mapping.Access == primitives.ReadWrite) {
				return primitives.Errorf(primitives.CodeInUse, "the image is open").By(primitives.Blocker{Kind: "disk", Name: other.name + "/" + x.Target})
			}
		}
	}
	return nil
}

// Detach takes a disk away once the guest lets go of it.
func (a *Adapter) Detach(ctx context.Context, id hypervisor.DomainID, diskID hypervisor.DiskID) (result hypervisor.DetachResult, err error) {
	asked := false
	err = a.change(ctx, "Detach", id, func(d *domain) error {
		result, asked, err = d.askDetach(diskID)
		return err
	})
	if err != nil || !asked {
		return result, err
	}
	err = a.host.wait(ctx, func() bool {
		d := a.host.domains[id]
		return d == nil || find(d.live, diskID) == nil
	})
	if err != nil {
		return result, primitives.Errorf(primitives.CodeUnavailable, "the guest has not let go of disk %s: %w", diskID, err)
	}
	a.host.change(id, func() {
		if d := a.host.domains[id]; d != nil {
			result.Config = d.detachConfig(diskID)
		}
	})
	return result, nil
}

// askDetach asks the guest; asked says that it has not answered yet.
func (d *domain) askDetach(id hypervisor.DiskID) (result hypervisor.DetachResult, asked bool, err error) {
	live := find(d.live, id)
	switch {
	case live != nil && len(live.below) > 0:
		return result, false, primitives.Errorf(primitives.CodeDependents, "a snapshot's overlay lies on disk %s", id)
	case !d.running:
		result.Live = hypervisor.NotAsked
	case live == nil:
		result.Live = hypervisor.Already
	case d.refusing:
		return result, false, primitives.Errorf(primitives.CodeInUse, "the guest refuses to give disk %s back", id)
	case d.deaf:
		live.Detaching = true
		result.Live = hypervisor.Done
		return result, true, nil
	default:
		d.live = without(d.live, id)
		result.Live = hypervisor.Done
	}
	result.Config = d.detachConfig(id)
	return result, false, nil
}

func (d *domain) detachConfig(id hypervisor.DiskID) hypervisor.Outcome {
	switch {
	case !d.persistent:
		return hypervisor.NotAsked
	case find(d.config, id) == nil:
		return hypervisor.Already
	}
	d.config = without(d.config, id)
	return hypervisor.Done
}

var errHold = context.DeadlineExceeded

// after returns a context that ends after hold with the plain deadline error.
func after(ctx context.Context, hold time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, hold, errHold)
}
