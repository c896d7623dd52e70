// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	"github.com/tenon-storage/tenon/primitives"
)

const pageSize = 500

// place is where an object stands in a listing. It is never shared by two
// objects, so a cursor that holds one stays right whatever comes and goes.
type place struct {
	Volume, Snapshot, Tomb string
}

func (a place) compare(b place) int {
	return cmp.Or(cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.Snapshot, b.Snapshot), cmp.Compare(a.Tomb, b.Tomb))
}

type entry struct {
	place
	o *object
	t *tomb
}

func (b *backend) List(ctx context.Context, r primitives.ListRequest) (primitives.Page, error) {
	return call(ctx, b, "list", func() (primitives.Page, error) {
		from, err := readCursor(r.Cursor)
		if err != nil {
			return primitives.Page{}, err
		}
		if r.Limit < 0 {
			return primitives.Page{}, primitives.Invalid("limit", "%d is negative", r.Limit)
		}
		if !r.Of.IsZero() {
			if err := b.mine(r.Of); err != nil {
				return primitives.Page{}, err
			}
		}
		entries := b.s.entries(r)
		if r.Cursor != "" {
			entries = slices.DeleteFunc(entries, func(e entry) bool { return e.compare(from) <= 0 })
		}
		slices.SortFunc(entries, func(a, b entry) int { return a.compare(b.place) })
		limit := pageSize
		if r.Limit > 0 {
			limit = r.Limit
		}
		var page primitives.Page
		for _, e := range entries[:min(limit, len(entries))] {
			page.Objects = append(page.Objects, b.renderEntry(e))
		}
		if len(entries) > limit {
			page.Next = writeCursor(entries[limit-1].place)
		}
		return page, nil
	})
}

// entries returns everything that r selects, in no order.
func (s *store) entries(r primitives.ListRequest) []entry {
	kinds := r.Kinds
	if len(kinds) == 0 {
		kinds = []primitives.Kind{primitives.KindVolume}
		if !r.Of.IsZero() {
			kinds = []primitives.Kind{primitives.KindSnapshot}
		}
	}
	wants := func(k primitives.Kind, volume string) bool {
		return slices.Contains(kinds, k) && strings.HasPrefix(volume, r.Prefix) && (r.Of.IsZero() || r.Of.Volume == volume)
	}
	var found []entry
	for _, v := range s.volumes {
		if v.hidden {
			continue
		}
		if wants(primitives.KindVolume, v.name) && r.Of.IsZero() {
			found = append(found, entry{place: place{Volume: v.name}, o: &v.object})
		}
		if !wants(primitives.KindSnapshot, v.name) {
			continue
		}
		for _, sn := range v.snaps {
			found = append(found, entry{place: place{Volume: v.name, Snapshot: sn.name}, o: &sn.object})
		}
	}
	for _, t := range s.tombs {
		if wants(primitives.KindTombstone, t.Was.Volume) && (r.Of.IsZero() || t.snap != nil) {
			found = append(found, entry{place: place{t.Was.Volume, t.Was.Snapshot, t.ID}, o: t.object(), t: t})
		}
	}
	return found
}

func (b *backend) renderEntry(e entry) primitives.Object {
	obj := b.render(primitives.URI{Volume: e.Volume, Snapshot: e.Snapshot}, e.o)
	if e.t != nil {
		t := e.t.Tombstone
		t.Was.Device = b.name
		obj.Kind, obj.Tombstone = primitives.KindTombstone, &t
	}
	return obj
}

func writeCursor(p place) string {
	raw, err := json.Marshal(p)
	if err != nil {
		panic(err) // three strings always marshal
	}
	return "mem1." + base64.RawURLEncoding.EncodeToString(raw)
}

func readCursor(s string) (place, error) {
	var p place
	if s == "" {
		return p, nil
	}
	rest, ok := strings.CutPrefix(s, "mem1.")
	raw, err := base64.RawURLEncoding.DecodeString(rest)
	if !ok || err != nil || json.Unmarshal(raw, &p) != nil || p == (place{}) || writeCursor(p) != s {
		return p, primitives.Invalid("cursor", "%q was not issued by this device", s)
	}
	return p, nil
}
