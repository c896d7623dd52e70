// SPDX-License-Identifier: Apache-2.0

package storagetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

var listChecks = []check{
	{cases: []int{1}, name: "an empty store lists nothing", run: emptyStoreListsNothing},
	{cases: []int{2}, name: "a committed volume is seen at once from another backend", run: committedIsSeenElsewhere},
	{cases: []int{2}, name: "a committed volume is seen at once from another host", needs: []need{shared}, run: committedIsSeenOnOtherHosts},
	{cases: []int{3}, name: "paging misses nothing and repeats nothing while volumes come and go", run: pagingIsStable},
	{cases: []int{3}, name: "snapshots and tombstones are paged like volumes", needs: []need{snapshots}, run: everyKindIsPaged},
	{cases: []int{4}, name: "a cursor that list did not issue is invalid", run: unknownCursorIsInvalid},
	{cases: []int{5}, name: "a prefix selects by the beginning of the name", run: prefixSelects},
	{cases: []int{6}, name: "the snapshots of one volume are listed without those of others", needs: []need{snapshots}, run: listsSnapshotsOfOneVolume},
	{cases: []int{7}, name: "legal names are stored faithfully", run: legalNamesAreFaithful},
	{cases: []int{7}, name: "illegal names are refused", run: illegalNamesAreRefused},
	{cases: []int{7}, name: "no name leads out of the store", needs: []need{outside}, run: namesStayInside},
	{cases: []int{8}, name: "stat takes no longer among many volumes", costly: true, serial: true, run: statStaysFlat},
	{cases: []int{9}, name: "tombstones are hidden unless asked for", run: tombstonesAreHidden},
	{cases: []int{10}, name: "two configurations of one store have one identity", run: oneStoreOneIdentity},
}

// Case 1.
func emptyStoreListsNothing(c *C) {
	b := c.open()
	for _, kinds := range [][]primitives.Kind{
		nil,
		{primitives.KindVolume},
		{primitives.KindSnapshot},
		{primitives.KindTombstone},
		{primitives.KindVolume, primitives.KindSnapshot, primitives.KindTombstone},
	} {
		page, err := b.List(c.ctx, primitives.ListRequest{Op: primitives.Op{Props: c.opProps()}, Kinds: kinds})
		c.must(err, "list")
		if len(page.Objects) != 0 || page.Next != "" {
			c.Errorf("list of kinds %v on an empty store = %v, next %q", kinds, shortNames(page.Objects), page.Next)
		}
	}
}

// Case 2.
func committedIsSeenElsewhere(c *C) {
	writer, other := c.open(), c.open()
	img := c.full(c.seed())
	made := c.create(writer, "vol", img)
	c.repeats(c.stat(other, c.u("vol")), made, "stat from the other backend")
	c.same(c.names(other), []string{"vol"}, "the listing of the other backend")
	c.holds(other, c.u("vol"), img)

	c.overwrite(writer, c.u("vol"), img, c.seed(), 4096, 8192)
	c.holds(other, c.u("vol"), img)
}

// Case 2.
func committedIsSeenOnOtherHosts(c *C) {
	a, b := c.open(), c.openOn("b")
	img := c.full(c.seed())
	made := c.create(a, "vol", img)
	c.repeats(c.stat(b, c.u("vol")), made, "stat on another host")
	c.holds(b, c.u("vol"), img)
	dead := c.delink(b, c.u("vol"))
	c.absent(a, c.u("vol"))
	c.relink(a, dead, primitives.URI{})
	c.holds(b, c.u("vol"), img)
}

// Case 3. Half of the volumes stay; the others go, and new ones come on both
// sides of the cursor, between any two pages.
func pagingIsStable(c *C) {
	b := c.open()
	stable := []string{}
	for i := range 6 {
		stable = append(stable, fmt.Sprintf("v%d-stays", i))
		c.create(b, stable[i], c.blank())
		c.create(b, fmt.Sprintf("v%d-goes", i), c.blank())
	}
	r := primitives.ListRequest{Op: primitives.Op{Props: c.opProps()}, Limit: 2}
	seen := []string{}
	for round := 0; ; round++ {
		page, err := b.List(c.ctx, r)
		c.must(err, "list")
		if len(page.Objects) > r.Limit {
			c.Errorf("a page has %d objects, want at most %d", len(page.Objects), r.Limit)
		}
		seen = append(seen, shortNames(page.Objects)...)
		if page.Next == "" {
			break
		}
		if round == 50 {
			c.Fatalf("the listing does not end: %v", seen)
		}
		// What comes and goes behind the cursor must not cancel out: whoever counts
		// would not be found out.
		switch round {
		case 0:
			c.remove(b, c.u("v0-goes"))
			c.remove(b, c.u("v5-goes"))
		case 1:
			c.create(b, "a1", c.blank())
			c.create(b, "a2", c.blank())
			c.create(b, "z1", c.blank())
		case 2:
			c.create(b, "a3", c.blank())
			c.remove(b, c.u("v4-goes"))
			c.create(b, "z2", c.blank())
		}
		r.Cursor = page.Next
	}
	if !slices.IsSorted(seen) {
		c.Errorf("pages are not in order of name: %v", seen)
	}
	if len(slices.Compact(slices.Sorted(slices.Values(seen)))) != len(seen) {
		c.Errorf("an object was listed twice: %v", seen)
	}
	for _, name := range stable {
		if !slices.Contains(seen, name) {
			c.Errorf("%s existed all the time and is missing in %v", name, seen)
		}
	}
}

// Case 3. Two tombstones of one name are two objects.
func everyKindIsPaged(c *C) {
	b := c.open()
	for range 2 {
		c.create(b, "gone", c.blank())
		c.delink(b, c.u("gone"))
	}
	for _, name := range []string{"vol", "vol2"} {
		c.create(b, name, c.blank())
		for _, snap := range []string{"s1", "s2", "s3"} {
			c.snapshot(b, snap, c.u(name))
		}
	}
	c.delink(b, c.u("vol").At("s2"))
	for _, kinds := range [][]primitives.Kind{
		{primitives.KindSnapshot}, {primitives.KindTombstone}, {primitives.KindVolume, primitives.KindSnapshot, primitives.KindTombstone},
	} {
		whole := c.list(b, primitives.ListRequest{Kinds: kinds})
		for _, limit := range []int{1, 2, 3} {
			parts := c.list(b, primitives.ListRequest{Kinds: kinds, Limit: limit})
			c.same(identities(parts), identities(whole), fmt.Sprintf("the listing of %v in pages of %d", kinds, limit))
		}
	}
	c.same(len(c.tombstones(b)), 3, "the number of tombstones")
	c.same(len(c.names(b, primitives.KindSnapshot)), 5, "the number of snapshots")
}

// Case 4.
func unknownCursorIsInvalid(c *C) {
	b := c.open()
	c.create(b, "vol", c.blank())
	for _, cursor := range []string{"?", "not a cursor", "\x00", strings.Repeat("x", 300)} {
		_, err := b.List(c.ctx, primitives.ListRequest{Op: primitives.Op{Props: c.opProps()}, Cursor: cursor})
		c.refused(err, fmt.Sprintf("list with cursor %.20q", cursor), primitives.CodeInvalid)
	}
}

// Case 5.
func prefixSelects(c *C) {
	b := c.open()
	for _, name := range []string{"db", "db-1", "db-2", "web"} {
		c.create(b, name, c.blank())
	}
	for prefix, want := range map[string][]string{
		"nothing": {}, "db-11": {}, "DB": {}, "w": {"web"}, "db-": {"db-1", "db-2"}, "db": {"db", "db-1", "db-2"},
	} {
		c.same(shortNames(c.list(b, primitives.ListRequest{Prefix: prefix})), want, "the listing of prefix "+prefix)
		c.same(shortNames(c.list(b, primitives.ListRequest{Prefix: prefix, Limit: 1})), want, "the listing, one by one, of prefix "+prefix)
	}
}

// Case 6.
func listsSnapshotsOfOneVolume(c *C) {
	b := c.open()
	for _, name := range []string{"vol", "vol2", "other"} {
		c.create(b, name, c.blank())
	}
	c.snapshot(b, "s1", c.u("vol"))
	c.snapshot(b, "s2", c.u("vol"))
	c.snapshot(b, "s1", c.u("vol2"))
	c.snapshot(b, "s3", c.u("other"))
	of := func(name string, limit int) []string {
		return shortNames(c.list(b, primitives.ListRequest{Kinds: []primitives.Kind{primitives.KindSnapshot}, Of: c.u(name), Limit: limit}))
	}
	for _, limit := range []int{0, 1} {
		c.same(of("vol", limit), []string{"vol@s1", "vol@s2"}, "the snapshots of vol")
		c.same(of("vol2", limit), []string{"vol2@s1"}, "the snapshots of vol2")
	}
	c.same(c.names(b, primitives.KindSnapshot), []string{"other@s3", "vol@s1", "vol@s2", "vol2@s1"}, "all snapshots")
	c.same(c.names(b), []string{"other", "vol", "vol2"}, "the volumes, which no snapshot is")
}

// Case 7. Names that drivers tend to mangle: all of them are legal.
func legalNames() []string {
	return []string{
		"-dash", ".hidden", "..dots", "a%2Fb", "a b", "case", "CASE", "*?[x]", "$(id);`id`|&", "~", "#x", "trash", "tmp",
		`back\slash`, `quo"te's`, "größe-体積-🙂", strings.Repeat("n", primitives.MaxName), strings.Repeat("é", primitives.MaxName/2),
	}
}

// Case 7.
func legalNamesAreFaithful(c *C) {
	b := c.open()
	names := legalNames()
	for _, name := range names {
		c.create(b, name, c.blank())
	}
	c.same(c.names(b), slices.Sorted(slices.Values(names)), "the names listed")
	b = c.crashAndReopen()
	for _, name := range names {
		c.stat(b, c.u(name))
	}
	if c.p.caps.Snapshot {
		for _, name := range names {
			c.snapshot(b, name, c.u("case"))
		}
		c.same(len(c.names(b, primitives.KindSnapshot)), len(names), "the number of snapshots")
	}
	c.delink(b, c.u(".hidden"))
	c.stat(b, c.u("..dots"))
}

// Case 7. "e" with an accent in two encodings is two names, or the second is refused.
func illegalNamesAreRefused(c *C) {
	b := c.open()
	for _, name := range []string{"", ".", "..", "a/b", "../out", "/etc/passwd", "a\nb", "a\x00b", "\x7f", "a\xffb", " a", strings.Repeat("n", 300)} {
		_, err := b.Write(c.ctx, c.u(name), c.createRequest(c.p.size))
		c.refused(err, fmt.Sprintf("write %.20q with create", name), primitives.CodeInvalid)
		_, err = b.Stat(c.ctx, c.u(name), c.op())
		c.refused(err, fmt.Sprintf("stat %.20q", name), primitives.CodeInvalid, primitives.CodeNotFound)
	}
	c.same(c.names(b), []string{}, "the names listed")
}

// Case 7.
func namesStayInside(c *C) {
	b := c.open()
	before := c.store.Outside(c.TB)
	for _, name := range legalNames() {
		c.create(b, name, c.blank())
		c.delink(b, c.u(name))
	}
	for _, name := range []string{"..", "../out", "/out", "a/../../out"} {
		if w, err := b.Write(c.ctx, c.u(name), c.createRequest(c.p.size)); err == nil {
			_, _ = w.Commit(c.ctx)
		}
	}
	c.same(c.store.Outside(c.TB), before, "what is around the store")
}

// Case 8. The bound is generous: what looks through all volumes is slower by the
// ratio of their numbers.
func statStaysFlat(c *C) {
	many := c.h.Many
	if many == 0 {
		many = 200
	}
	few := max(many/50, 5)
	b := c.open()
	name := func(i int) string { return fmt.Sprintf("vol-%05d", i) }
	made, tiny := 0, make(image, c.p.desc.Granule)
	fastest := func(n int) time.Duration {
		for ; made < n; made++ {
			c.create(b, name(made), tiny)
		}
		best := time.Duration(1<<63 - 1)
		for range 20 {
			start := time.Now()
			for i := range 10 {
				c.stat(b, c.u(name(i*n/10)))
			}
			best = min(best, time.Since(start))
		}
		return best
	}
	amongFew := fastest(few)
	amongMany := fastest(many)
	const bound = 10
	if amongMany > bound*amongFew {
		c.Errorf("stat takes %v among %d volumes and %v among %d, want less than %d times as long", amongMany/10, many, amongFew/10, few, bound)
	}
}

// Case 9.
func tombstonesAreHidden(c *C) {
	b := c.open()
	o := c.create(b, "gone", c.blank())
	c.create(b, "here", c.blank())
	dead := c.delink(b, c.u("gone"))
	c.same(c.names(b), []string{"here"}, "the listing")
	c.same(c.names(b, primitives.KindVolume), []string{"here"}, "the listing of volumes")
	c.absent(b, c.u("gone"))
	all := c.tombstones(b)
	if len(all) != 1 || all[0].Kind != primitives.KindTombstone || all[0].Tombstone == nil {
		c.Fatalf("the listing of tombstones = %+v, want one that says what it is", all)
	}
	if got := all[0].Tombstone; got.ID != dead.ID || got.Was != c.u("gone") || got.Handle != o.Handle {
		c.Errorf("tombstone = %+v, want id %s of gone with handle %s", got, dead.ID, o.Handle)
	}
}

// Case 10.
func oneStoreOneIdentity(c *C) {
	b := c.open()
	r := c.openRequest("a")
	r.Name = "another"
	other, err := c.tryOpen(c.ctx, r)
	c.must(err, "open under another name")
	id := c.describe(b).Backend
	if id == "" || c.describe(other).Backend != id {
		c.Errorf("identities of one store under two names = %q and %q, want one", id, c.describe(other).Backend)
	}
	img := c.full(c.seed())
	c.create(b, "vol", img)
	c.holds(other, primitives.URI{Device: "another", Volume: "vol"}, img)

	c.use(c.h.New(c.TB))
	if stranger := c.describe(c.open()).Backend; stranger == id {
		c.Errorf("another store has the same identity %q", id)
	}
}
