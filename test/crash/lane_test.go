// SPDX-License-Identifier: Apache-2.0

package crash_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/tenon-storage/tenon/internal/command"
)

const mib = 1 << 20

// devices are a folder for each format.
var devices = []struct{ name, format string }{{"q", "qcow2"}, {"r", "raw"}}

// content is what an object holds: a pattern, and zeros behind it.
type content struct {
	pattern uint64 // 0: nothing but zeros
	size    int64
}

const patternSize = 4 * mib

func pattern(seed uint64) []byte {
	p := make([]byte, patternSize)
	for i, r := 0, rand.New(rand.NewPCG(seed, 0)); i < len(p); i += 8 {
		for j, v := 0, r.Uint64(); j < 8; j++ {
			p[i+j] = byte(v >> (8 * j))
		}
	}
	return p
}

func (c content) bytes() []byte {
	p := make([]byte, c.size)
	if c.pattern != 0 {
		copy(p, pattern(c.pattern))
	}
	return p
}

// place is one name, and what it is promised to hold.
type place struct {
	device, uri string
	there       *volume
	buried      *volume // a tombstone that had the name
}

type volume struct {
	content
	snapshots map[string]content
	buried    map[string]content // delinked snapshots
}

// lane is one user of tenond, with names of his own, who does one thing after
// another.
type lane struct {
	w      *world
	name   string
	random *rand.Rand
	places []*place
	asked  int
	stamp  string // makes request ids unique
}

func newLane(w *world, n int, random *rand.Rand) *lane {
	l := &lane{w: w, name: fmt.Sprintf("lane%d", n), random: random, stamp: strconv.FormatUint(random.Uint64(), 36)}
	for _, d := range devices {
		for _, v := range []string{"a", "b", "c"} {
			l.places = append(l.places, &place{device: d.name, uri: fmt.Sprintf("%s/%s-%s", d.name, l.name, v)})
		}
	}
	return l
}

// act is one command, and what it changes if it succeeds.
type act struct {
	verb string
	args []string
	done func()
	// mayBlock says that a clone may stand in the way.
	mayBlock bool
}

// work does one thing after another until tenond dies, and sees the last one
// through with the tenond that comes after.
func (l *lane) work(ctx context.Context, died, back <-chan struct{}) error {
	for {
		select {
		case <-died:
			return nil
		default:
		}
		a, err := l.next()
		if err == nil {
			err = l.do(ctx, a, back)
		}
		if err != nil {
			return err
		}
	}
}

// do asks, and asks again under the same id if it did not hear of success.
func (l *lane) do(ctx context.Context, a act, back <-chan struct{}) error {
	l.asked++
	id := fmt.Sprintf("%s-%s-%d", l.name, l.stamp, l.asked)
	args := append([]string{"--request-id", id}, a.args...)
	end := "done"
	_, err := l.w.tenond.Run(ctx, args...)
	if err != nil {
		<-back
		end = "done when asked again"
		_, err = l.w.tenond.Run(ctx, args...)
	}
	if err == nil {
		a.done()
	} else if end = l.excuse(ctx, a, id); end == "" {
		said := ""
		if e, ok := errors.AsType[*command.Error](err); ok {
			said = e.Stderr
		}
		return fmt.Errorf("tenonctl %q: %w: %s", args, err, said)
	}
	l.w.count(a.verb, end)
	return nil
}

// excuse says why the operation of that request rightly failed, and "" if there
// is no such reason.
func (l *lane) excuse(ctx context.Context, a act, requestID string) string {
	operations, err := l.w.operations(ctx)
	if err != nil {
		return ""
	}
	for _, o := range operations {
		switch {
		case o.RequestID != requestID:
		case o.Failure.Code == "ERROR_CODE_CANCELLED":
			return "taken back by the next tenond"
		case o.Failure.Code == "ERROR_CODE_DEPENDENTS" && a.mayBlock:
			return "refused because of a clone"
		}
	}
	return ""
}

// next chooses something that can be done.
func (l *lane) next() (act, error) {
	var all []act
	for _, p := range l.places {
		all = append(all, l.makes(p)...)
		all = append(all, l.changes(p)...)
		all = append(all, l.ends(p)...)
	}
	// Each verb has the same chance, however many places it could go to.
	verbs := map[string][]act{}
	for _, a := range all {
		verbs[a.verb] = append(verbs[a.verb], a)
	}
	names := slices.Sorted(maps.Keys(verbs))
	choice := verbs[names[l.random.IntN(len(names))]]
	a := choice[l.random.IntN(len(choice))]
	if a.verb != "write" {
		return a, nil
	}
	return l.write(a)
}

// write gives a write something to write.
func (l *lane) write(a act) (act, error) {
	seed := l.random.Uint64() | 1
	file := filepath.Join(l.w.tenond.Dir, l.name+".bytes")
	if err := os.WriteFile(file, pattern(seed), 0o600); err != nil {
		return act{}, err
	}
	i := slices.IndexFunc(l.places, func(p *place) bool { return p.uri == a.args[2] })
	a.args = append(a.args, "--input", file)
	a.done = func() { l.places[i].there.pattern = seed }
	return a, nil
}

// makes lists the ways to fill an empty place.
func (l *lane) makes(p *place) []act {
	if p.there != nil {
		return nil
	}
	put := func(c content) func() {
		return func() { p.there = &volume{content: c, snapshots: map[string]content{}, buried: map[string]content{}} }
	}
	acts := []act{{verb: "create", args: []string{"volume", "create", p.uri, "--size", strconv.Itoa(patternSize)}, done: put(content{size: patternSize})}}
	for _, from := range l.places {
		if from.there == nil {
			continue
		}
		sources := map[string]content{"": from.there.content}
		for name, c := range from.there.snapshots {
			sources["@"+name] = c
		}
		for _, at := range slices.Sorted(maps.Keys(sources)) {
			acts = append(acts, act{verb: "copy", args: []string{"copy", from.uri + at, p.uri}, done: put(sources[at])})
			if from.device == p.device {
				acts = append(acts, act{verb: "clone", args: []string{"volume", "clone", from.uri + at, p.uri}, done: put(sources[at])})
			}
		}
	}
	if p.buried != nil {
		acts = append(acts, act{verb: "relink", args: []string{"volume", "relink", p.uri}, done: func() { p.there, p.buried = p.buried, nil }})
	}
	return acts
}

// changes lists what can be done to a volume that is there.
func (l *lane) changes(p *place) []act {
	v := p.there
	if v == nil {
		return nil
	}
	larger := v.size + mib
	acts := []act{
		{verb: "write", args: []string{"volume", "write", p.uri}},
		{verb: "resize", args: []string{"volume", "resize", p.uri, "--size", strconv.FormatInt(larger, 10)}, done: func() { v.size = larger }},
	}
	if p.device != "q" {
		return acts
	}
	for _, name := range []string{"s", "t"} {
		_, there := v.snapshots[name]
		_, buried := v.buried[name]
		uri := p.uri + "@" + name
		switch {
		case there:
			acts = append(acts, act{verb: "revert", args: []string{"snapshot", "revert", uri}, done: func() { v.content = v.snapshots[name] }})
			acts = append(acts, act{verb: "delink snapshot", args: []string{"snapshot", "delink", uri}, done: func() {
				v.buried[name] = v.snapshots[name]
				delete(v.snapshots, name)
			}, mayBlock: true})
		case buried:
			acts = append(acts, act{verb: "relink snapshot", args: []string{"volume", "relink", uri}, done: func() {
				v.snapshots[name] = v.buried[name]
				delete(v.buried, name)
			}})
			acts = append(acts, act{verb: "destroy snapshot", args: []string{"snapshot", "destroy", uri}, done: func() { delete(v.buried, name) }, mayBlock: true})
		default:
			acts = append(acts, act{verb: "snapshot", args: []string{"snapshot", "create", p.uri, "--name", name}, done: func() { v.snapshots[name] = v.content }})
		}
	}
	return acts
}

// ends lists the ways to end a volume.
func (l *lane) ends(p *place) []act {
	var acts []act
	if p.there != nil && p.buried == nil && len(p.there.buried) == 0 {
		acts = append(acts, act{verb: "delink", args: []string{"volume", "delink", p.uri}, done: func() { p.there, p.buried = nil, p.there }, mayBlock: true})
	}
	if p.buried != nil {
		acts = append(acts, act{verb: "destroy", args: []string{"volume", "destroy", p.uri}, done: func() { p.buried = nil }, mayBlock: true})
	}
	return acts
}

// objects is what the lane's places hold by now.
func (l *lane) objects() map[string]content {
	all := map[string]content{}
	for _, p := range l.places {
		if p.there == nil {
			continue
		}
		all[p.uri] = p.there.content
		for name, c := range p.there.snapshots {
			all[p.uri+"@"+name] = c
		}
	}
	return all
}

// checkOne compares the content of one object of the lane.
func (l *lane) checkOne(t *testing.T) {
	t.Helper()
	all := l.objects()
	if len(all) > 0 {
		uris := slices.Sorted(maps.Keys(all))
		uri := uris[l.random.IntN(len(uris))]
		l.check(t, uri, all[uri])
	}
}

// checkAll compares the content of all objects of the lane, and of those that it
// can bring back.
func (l *lane) checkAll(t *testing.T) {
	t.Helper()
	for _, p := range l.places {
		if p.there == nil && p.buried != nil {
			if _, err := l.w.tenond.Run(t.Context(), "volume", "relink", p.uri); err != nil {
				t.Error(err)
				continue
			}
			p.there, p.buried = p.buried, nil
		}
	}
	for uri, c := range l.objects() {
		l.check(t, uri, c)
	}
}

func (l *lane) check(t *testing.T, uri string, c content) {
	t.Helper()
	out, err := l.w.tenond.Run(t.Context(), "volume", "read", uri)
	if err != nil {
		t.Errorf("read %s: %v", uri, err)
		return
	}
	if want := c.bytes(); !bytes.Equal([]byte(out), want) {
		t.Errorf("%s holds other bytes than it should: %d of them, want %d of pattern %d", uri, len(out), len(want), c.pattern)
	}
}
