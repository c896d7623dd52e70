// SPDX-License-Identifier: Apache-2.0

package mem

import (
	"crypto/subtle"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tenon-storage/tenon/primitives"
)

// rememberedOps bounds how many outcomes a store keeps for repeats.
const rememberedOps = 4096

// store is what the "hardware" of this driver holds. Names in it have no device:
// one store may be several devices, even of several hosts.
type store struct {
	identity string
	faults   faults

	mu         sync.Mutex // guards everything below
	space      space
	volumes    map[string]*volume
	tombs      map[string]*tomb
	maps       map[primitives.MappingID]*mapping
	needers    map[primitives.Handle]map[primitives.Handle]bool // clones by the origin that they need
	sessions   map[*backend]struct{}
	outcomes   map[string]outcome
	recent     []string // keys of outcomes, oldest first
	serial     int
	closed     bool // token was set by the first that opened with one
	token      []byte
	health     primitives.Health
	healthNote string
	fenced     bool
}

// object is one incarnation of a volume or snapshot.
type object struct {
	handle    primitives.Handle
	c         *content
	state     primitives.State
	gen       uint64
	parent    primitives.Handle // origin
	needs     primitives.Handle // origin that cannot be destroyed first
	created   time.Time
	props     primitives.Props
	createdBy string // request id, for resuming
	madeAs    string // its arguments
}

type volume struct {
	object
	name      string
	hidden    bool // its creator has not committed yet
	writer    *writer
	touchedBy string               // request id of an unfinished overwrite
	snaps     map[string]*snapshot // by name
}

type snapshot struct {
	object
	of    primitives.Handle // the volume that it was made of
	name  string
	order int    // grows from snapshot to snapshot
	op    string // request id of its maker
}

// tomb is a delinked volume with its snapshots, or one snapshot.
type tomb struct {
	primitives.Tombstone // its URI's device is empty
	vol                  *volume
	snap                 *snapshot
}

// outcome is what a finished request answered.
type outcome struct {
	args   string
	answer any
}

func newStore(identity string) *store {
	s := &store{
		identity: identity,
		volumes:  make(map[string]*volume),
		tombs:    make(map[string]*tomb),
		maps:     make(map[primitives.MappingID]*mapping),
		needers:  make(map[primitives.Handle]map[primitives.Handle]bool),
		sessions: make(map[*backend]struct{}),
		outcomes: make(map[string]outcome),
	}
	s.faults.onCrash = s.crash
	return s
}

// admit compares tokens, and takes the first one given as the store's.
func (s *store) admit(secrets primitives.Secrets) error {
	token, given := secrets.Get("token")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed && subtle.ConstantTimeCompare(s.token, token) != 1 {
		return primitives.Errorf(primitives.CodeDenied, "not the token of this store").Trying("Give the secret token that the first device of this store has")
	}
	if given && !s.closed && len(s.sessions) == 0 && len(s.volumes) == 0 {
		s.token, s.closed = token, true
	}
	return nil
}

// join takes in a backend, after recovering what dead ones left behind.
func (s *store) join(b *backend) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.volumes {
		if v.writer != nil && v.writer.b.isGone() {
			v.orphaned()
		}
	}
	for id, m := range s.maps {
		if m.host == b.host.ID && m.boot != b.host.BootID {
			m.stop()
			delete(s.maps, id)
		}
	}
	s.sessions[b] = struct{}{}
}

// orphaned ends a writer whose backend is gone.
func (v *volume) orphaned() {
	v.writer = nil
	v.hidden = false // a created one is Incomplete already
}

func (s *store) crash() {
	s.mu.Lock()
	sessions := slices.Collect(maps.Keys(s.sessions))
	s.mu.Unlock()
	for _, b := range sessions {
		_ = b.Close()
	}
}

func (s *store) newObject(c *content) object {
	s.serial++
	return object{
		handle:  primitives.Handle(fmt.Sprintf("mem-%d", s.serial)),
		c:       c,
		state:   primitives.Ready,
		gen:     1,
		created: time.Now(),
	}
}

// volume returns the visible volume of that name.
func (s *store) volume(u primitives.URI) (*volume, error) {
	v := s.volumes[u.Volume]
	if v == nil || v.hidden {
		return nil, (&primitives.Error{Code: primitives.CodeNotFound}).On(u)
	}
	return v, nil
}

// object returns the volume or snapshot, whatever its state.
func (s *store) object(u primitives.URI) (*object, error) {
	v, err := s.volume(u)
	if err != nil {
		return nil, err
	}
	if !u.IsSnapshot() {
		return &v.object, nil
	}
	if snap := v.snaps[u.Snapshot]; snap != nil {
		return &snap.object, nil
	}
	return nil, (&primitives.Error{Code: primitives.CodeNotFound}).On(u)
}

// readable returns an object whose bytes are whole.
func (s *store) readable(u primitives.URI) (*object, error) {
	o, err := s.object(u)
	if err != nil {
		return nil, err
	}
	switch o.state {
	case primitives.Incomplete:
		return nil, errIncomplete(u)
	case primitives.Pending:
		return nil, primitives.Errorf(primitives.CodeConflict, "the snapshot awaits its switch").On(u)
	}
	if v := s.volumes[u.Volume]; !u.IsSnapshot() && v.writer != nil {
		return nil, v.busy(u)
	}
	return o, nil
}

// changeable returns a volume that nothing else changes at the moment.
func (s *store) changeable(u primitives.URI, ifGen uint64) (*volume, error) {
	if !u.IsVolume() {
		return nil, primitives.Invalid("uri", "%s is not a volume", u.Short())
	}
	v, err := s.volume(u)
	if err != nil {
		return nil, err
	}
	if v.writer != nil {
		return nil, v.busy(u)
	}
	if p := v.pending(); p != nil {
		return nil, primitives.Errorf(primitives.CodeConflict, "a snapshot awaits its switch").
			By(primitives.Blocker{Kind: "snapshot", Name: u.At(p.name).Short()}).On(u)
	}
	return v, v.atGeneration(ifGen, u)
}

func (o *object) atGeneration(want uint64, u primitives.URI) error {
	if want == 0 || want == o.gen {
		return nil
	}
	return primitives.Errorf(primitives.CodeConflict, "the generation is %d, not %d", o.gen, want).On(u)
}

func (v *volume) busy(u primitives.URI) error {
	e := primitives.Errorf(primitives.CodeConflict, "another request writes to it").On(u)
	if v.writer.op.ID != "" {
		e = e.By(primitives.Blocker{Kind: "operation", Name: v.writer.op.ID})
	}
	return e
}

// pending returns a snapshot of v that awaits its switch.
func (v *volume) pending() *snapshot {
	for _, sn := range v.snaps {
		if sn.state == primitives.Pending {
			return sn
		}
	}
	return nil
}

func errIncomplete(u primitives.URI) error {
	return primitives.Errorf(primitives.CodeIncomplete, "an earlier write was interrupted").On(u).
		Trying("Repeat that request with the same id to go on, or delink %s", u.Short())
}

// mappedBy names the mappings of the volume and its snapshots that keep chooses.
func (s *store) mappedBy(v *volume, keep func(*mapping) bool) []primitives.Blocker {
	var by []primitives.Blocker
	for _, m := range s.maps {
		if m.v == v && keep(m) {
			by = append(by, primitives.Blocker{Kind: "mapping", Name: string(m.id)})
		}
	}
	slices.SortFunc(by, func(a, b primitives.Blocker) int { return strings.Compare(a.Name, b.Name) })
	return by
}

// unmapped refuses what cannot be done while the volume itself is mapped.
func (s *store) unmapped(v *volume, u primitives.URI) error {
	return errMapped(u, s.mappedBy(v, func(m *mapping) bool { return m.snap == nil }))
}

func errMapped(u primitives.URI, by []primitives.Blocker) error {
	if len(by) == 0 {
		return nil
	}
	return primitives.Errorf(primitives.CodeInUse, "it is mapped").By(by...).On(u).Trying("Detach it first")
}

// replay returns the answer that a finished request of that id gave, or a
// conflict when it asked for something else.
func (s *store) replay(id, args string) (any, error) {
	o, ok := s.outcomes[id]
	switch {
	case id == "" || !ok:
		return nil, nil
	case o.args != args:
		return nil, primitives.Errorf(primitives.CodeConflict, "request id %q was used for %s, and now for %s", id, o.args, args)
	}
	return o.answer, nil
}

func (s *store) remember(id, args string, answer any) {
	if id == "" {
		return
	}
	if _, ok := s.outcomes[id]; !ok {
		s.recent = append(s.recent, id)
	}
	s.outcomes[id] = outcome{args: args, answer: answer}
	if len(s.recent) > rememberedOps {
		delete(s.outcomes, s.recent[0])
		s.recent = s.recent[1:]
	}
}

// once runs a changing request, or answers as it was answered before.
func once[T any](s *store, id, args string, run func() (T, error)) (T, error) {
	var zero T
	answer, err := s.replay(id, args)
	if err != nil {
		return zero, err
	}
	if answer != nil {
		return answer.(T), nil
	}
	got, err := run()
	if err != nil {
		return zero, err
	}
	s.remember(id, args, got)
	return got, nil
}
