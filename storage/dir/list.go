// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/tenon-storage/tenon/primitives"
)

// defaultLimit is how many objects a page has where the caller does not say.
const defaultLimit = 1000

// place is where an object stands in a listing: by the name of its volume, then
// by its own. Names may be used again, so the handle makes it unique.
type place struct {
	Volume   string
	Kind     primitives.Kind
	Snapshot string
	ID       string
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.Volume, q.Volume), cmp.Compare(p.Kind, q.Kind), cmp.Compare(p.Snapshot, q.Snapshot), cmp.Compare(p.ID, q.ID))
}

const cursorMark = "dir1:"

func (p place) cursor() string {
	data, _ := json.Marshal(p) // strings and a number
	return base64.RawURLEncoding.EncodeToString(append([]byte(cursorMark), data...))
}

func parseCursor(s string) (place, error) {
	bad := primitives.Invalid("cursor", "%q was not issued by this device", s)
	data, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return place{}, bad
	}
	text, ok := strings.CutPrefix(string(data), cursorMark)
	if !ok {
		return place{}, bad
	}
	var p place
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return place{}, bad
	}
	return p, nil
}

// List pages through objects. Only names are read, but for the page itself, and
// for tombstones, whose names are in their records.
func (b *backend) List(ctx context.Context, r primitives.ListRequest) (primitives.Page, error) {
	p, err := b.list(ctx, r)
	return p, classify(primitives.URI{Device: b.name}, err)
}

// listing is a List under way.
type listing struct {
	s     *session
	r     primitives.ListRequest
	after place // the zero place is before all others
	limit int
	found []listed
}

type listed struct {
	at place
	o  primitives.Object
}

func (b *backend) list(ctx context.Context, r primitives.ListRequest) (primitives.Page, error) {
	l := listing{r: r, limit: cmp.Or(r.Limit, defaultLimit)}
	if r.Limit < 0 {
		return primitives.Page{}, primitives.Invalid("limit", "%d is negative", r.Limit)
	}
	if len(r.Kinds) == 0 {
		l.r.Kinds = []primitives.Kind{primitives.KindVolume}
	}
	if !r.Of.IsZero() {
		if err := b.mineVolume(r.Of); err != nil {
			return primitives.Page{}, err
		}
		l.r.Kinds = []primitives.Kind{primitives.KindSnapshot}
	}
	if r.Cursor != "" {
		var err error
		if l.after, err = parseCursor(r.Cursor); err != nil {
			return primitives.Page{}, err
		}
	}
	s, err := b.enter(ctx)
	if err != nil {
		return primitives.Page{}, err
	}
	defer s.leave()
	l.s = s
	if !l.wants(primitives.KindTombstone) {
		return l.page(ctx)
	}
	// A delink or relink moves an object from one folder that is read to another.
	var p primitives.Page
	err = s.still(ctx, func() (err error) {
		p, err = l.page(ctx)
		return err
	})
	return p, err
}

func (l *listing) wants(k primitives.Kind) bool { return slices.Contains(l.r.Kinds, k) }

func (l *listing) page(ctx context.Context) (primitives.Page, error) {
	if err := l.collectTrash(); err != nil {
		return primitives.Page{}, err
	}
	names, err := l.volumes(ctx)
	if err != nil {
		return primitives.Page{}, err
	}
	for _, name := range names {
		if ctx.Err() != nil {
			return primitives.Page{}, context.Cause(ctx)
		}
		// Everything of this volume stands behind what has been found, but for
		// tombstones; one more than the page tells whether another follows.
		if l.foundBefore(name) > l.limit {
			break
		}
		if err := l.collect(name); err != nil {
			return primitives.Page{}, err
		}
	}
	slices.SortFunc(l.found, func(a, b listed) int { return a.at.compare(b.at) })
	var p primitives.Page
	if len(l.found) > l.limit {
		l.found = l.found[:l.limit]
		p.Next = l.found[l.limit-1].at.cursor()
	}
	for _, f := range l.found {
		p.Objects = append(p.Objects, f.o)
	}
	return p, nil
}

func (l *listing) foundBefore(name string) int {
	n := 0
	for _, f := range l.found {
		if f.at.Volume < name {
			n++
		}
	}
	return n
}

// volumes returns the names that may hold something for the page, in order.
func (l *listing) volumes(ctx context.Context) ([]string, error) {
	if !l.r.Of.IsZero() {
		_, _, err := l.s.lookup(l.r.Of)
		return []string{l.r.Of.Volume}, err
	}
	files, err := l.files(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		name, ok := volumeName(f)
		if ok && strings.HasPrefix(name, l.r.Prefix) && name >= l.after.Volume {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (l *listing) files(ctx context.Context) (files []string, err error) {
	read := func() error {
		files, err = l.s.names(volumesDir)
		return err
	}
	if l.wants(primitives.KindTombstone) {
		err = read() // everything is still already
	} else {
		err = l.s.still(ctx, read)
	}
	return files, err
}

// collect adds what one volume's record holds.
func (l *listing) collect(name string) error {
	u := primitives.URI{Device: l.s.name, Volume: name}
	r, cond, err := l.s.lookup(u)
	if errors.Is(err, primitives.CodeNotFound) {
		return nil // gone meanwhile, or not there yet
	}
	if err != nil {
		return err
	}
	if l.wants(primitives.KindVolume) {
		o, err := l.s.volumeObject(r, cond)
		if err := l.add(o, err); err != nil {
			return err
		}
	}
	for i := range r.Snapshots {
		snap := &r.Snapshots[i]
		if snap.gone() || !l.wants(primitives.KindSnapshot) {
			continue
		}
		o, err := l.s.snapshotObject(r, snap)
		if err := l.add(o, err); err != nil {
			return err
		}
	}
	return l.collectBuried(r)
}

func (l *listing) collectBuried(r record) error {
	if !l.wants(primitives.KindTombstone) {
		return nil
	}
	for i := range r.Snapshots {
		if snap := &r.Snapshots[i]; snap.gone() {
			o, err := l.s.tombstoneObject(r, snap)
			if err := l.add(o, err); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *listing) collectTrash() error {
	if !l.wants(primitives.KindTombstone) {
		return nil
	}
	names, err := l.s.names(trashDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		r, err := l.s.loadFile(trashDir + "/" + name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && r.Delinked == nil {
			continue
		}
		if err != nil {
			return err
		}
		if !r.VolumeGone {
			o, err := l.s.tombstoneObject(r, nil)
			if err := l.add(o, err); err != nil {
				return err
			}
		}
		if err := l.collectBuried(r); err != nil {
			return err
		}
	}
	return nil
}

func (l *listing) add(o primitives.Object, err error) error {
	if err != nil {
		return err
	}
	at := place{Volume: o.URI.Volume, Kind: o.Kind, Snapshot: o.URI.Snapshot, ID: string(o.Handle)}
	if strings.HasPrefix(at.Volume, l.r.Prefix) && at.compare(l.after) > 0 {
		l.found = append(l.found, listed{at, o})
	}
	return nil
}
