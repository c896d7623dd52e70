// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/tenon-storage/tenon/primitives"
)

// mapping is one record of mappings/VOLUME/ID.json. It does not wait for the
// disk: a loss of power ends the guests whose mappings it would forget.
type mapping struct {
	ID       primitives.MappingID
	Volume   primitives.Handle
	Name     string            // of the volume, which cannot be delinked meanwhile
	Snapshot string            `json:",omitempty"` // its name
	Of       primitives.Handle // the volume's or the snapshot's
	Consumer string
	Access   primitives.Access
	Host     string
	Boot     string
	Active   bool
	Layer    string // what the path leads to
	Identity string // of the file there
	Size     int64
	Epoch    uint64
}

// mappingID is the same for the same host, object, consumer and access.
func (b *backend) mappingID(volume, of primitives.Handle, m primitives.MapRequest) primitives.MappingID {
	h := sha256.New()
	for _, part := range []string{b.machine.ID, string(of), m.Consumer, m.Access.String()} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return primitives.MappingID(string(volume) + "-" + hex.EncodeToString(h.Sum(nil)[:6]))
}

// mappingFile returns the record's name, or false for an id that is none of ours.
func mappingFile(id primitives.MappingID) (string, bool) {
	volume, rest, ok := strings.Cut(string(id), "-")
	if !ok || !isID(volume) || !isID(rest) {
		return "", false
	}
	return mappingsDir + "/" + volume + "/" + rest + recordSuffix, true
}

// isID keeps everything but what we issue out of file names.
func isID(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// void reports whether the mapping ended with an earlier boot of this host. Of
// other hosts nothing is known, so theirs count.
func (b *backend) void(m mapping) bool { return m.Host == b.machine.ID && m.Boot != b.machine.BootID }

func (b *backend) here(m mapping) bool { return m.Host == b.machine.ID && m.Boot == b.machine.BootID }

func (m mapping) blocker() primitives.Blocker {
	return primitives.Blocker{Kind: "mapping", Name: string(m.ID) + " of " + m.Consumer}
}

func (m mapping) isVolume() bool { return m.Of == m.Volume }

// loadMapping reads a record; one that is void, or that a loss of power tore,
// is absent (fs.ErrNotExist).
func (s *session) loadMapping(file string) (mapping, error) {
	var m mapping
	err := s.readJSON(file, &m)
	if _, damaged := errors.AsType[*errDamaged](err); damaged || err == nil && s.void(m) {
		return mapping{}, fs.ErrNotExist
	}
	return m, err
}

// allMappings returns the mappings of a volume and of its snapshots, on any host.
func (s *session) allMappings(volume primitives.Handle) ([]mapping, error) {
	return s.mappingsBeside(volume, "")
}

// mappingsBeside is allMappings without the one of that id.
func (s *session) mappingsBeside(volume primitives.Handle, id primitives.MappingID) ([]mapping, error) {
	own, _ := mappingFile(id)
	folder := mappingsDir + "/" + string(volume)
	names, err := s.names(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []mapping
	for _, name := range names {
		file := folder + "/" + name
		if file == own {
			continue
		}
		m, err := s.loadMapping(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// everyMapping returns the mappings of the device that choose takes, of any host.
func (s *session) everyMapping(choose func(mapping) bool) ([]mapping, error) {
	volumes, err := s.names(mappingsDir)
	if err != nil {
		return nil, err
	}
	var chosen []mapping
	for _, v := range volumes {
		all, err := s.allMappings(primitives.Handle(v))
		if err != nil {
			continue // not a folder of ours
		}
		for _, m := range all {
			if choose(m) {
				chosen = append(chosen, m)
			}
		}
	}
	return chosen, nil
}

// mappingsOf returns the mappings of the volume itself.
func (s *session) mappingsOf(volume primitives.Handle) ([]mapping, error) {
	all, err := s.allMappings(volume)
	kept := all[:0]
	for _, m := range all {
		if m.isVolume() {
			kept = append(kept, m)
		}
	}
	return kept, err
}

// writerOf returns the mapping that writes to the volume, nil if none does.
func (s *session) writerOf(volume primitives.Handle) (*mapping, error) {
	all, err := s.mappingsOf(volume)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Active && all[i].Access == primitives.ReadWrite {
			return &all[i], nil
		}
	}
	return nil, nil
}

// checkUnmapped refuses what cannot be done to a mapped volume.
func (s *session) checkUnmapped(u primitives.URI, volume primitives.Handle) error {
	all, err := s.mappingsOf(volume)
	if err != nil {
		return err
	}
	return errMapped(u, all)
}

func errMapped(u primitives.URI, by []mapping) error {
	if len(by) == 0 {
		return nil
	}
	e := fail(primitives.CodeInUse, u, "it is mapped")
	for _, m := range by {
		e = e.By(m.blocker())
	}
	return e.Trying("detach it first")
}

// saveMapping writes a record and says so in its epoch where it changed.
func (s *session) saveMapping(m *mapping) error {
	file, ok := mappingFile(m.ID)
	if !ok {
		return errors.New("a mapping of ours has an id of ours")
	}
	var old mapping
	if err := s.readJSON(file, &old); err != nil {
		old = mapping{Epoch: m.Epoch}
	}
	return s.replaceMapping(old, m)
}

// replaceMapping is saveMapping that is told what the record says, which the
// device's lock keeps true; one without ID: there is none.
func (s *session) replaceMapping(old mapping, m *mapping) error {
	file, ok := mappingFile(m.ID)
	if !ok {
		return errors.New("a mapping of ours has an id of ours")
	}
	m.Epoch = old.Epoch
	if old == *m {
		return nil
	}
	m.Epoch++
	if old.ID == m.ID {
		return s.writeVolatile(file, m)
	}
	if err := s.root.Mkdir(path.Dir(file), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return s.writeVolatile(file, m)
}

func (s *session) removeMapping(id primitives.MappingID) error {
	file, ok := mappingFile(id)
	if !ok {
		return nil
	}
	s.about("remove", file)
	if err := s.root.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Fails while other mappings of the volume are there.
	_ = s.root.Remove(path.Dir(file))
	return nil
}

// clearMappings removes what earlier boots of this host left.
func (s *session) clearMappings() error {
	volumes, err := s.names(mappingsDir)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		folder := mappingsDir + "/" + v
		f, err := s.root.Open(folder)
		if err != nil {
			continue
		}
		names, err := f.Readdirnames(-1)
		_ = f.Close()
		if err != nil {
			continue // not a folder: not ours
		}
		for _, name := range names {
			_, err := s.loadMapping(folder + "/" + name)
			if errors.Is(err, fs.ErrNotExist) {
				if err := s.root.Remove(folder + "/" + name); err != nil {
					return err
				}
			}
		}
		_ = s.root.Remove(folder) // fails while mappings are there
	}
	return nil
}

// locate fills in where a mapping leads now: an active writer's is always the
// volume's head, because the switch of a snapshot is settled in the volume's
// record first; any other stays with what it was given until it is mapped again.
func (s *session) locate(m *mapping, r record) error {
	l := r.layer(m.Layer)
	if m.isVolume() && (l == nil || m.Active && m.Access == primitives.ReadWrite) {
		m.Layer = r.Head
		l = r.layer(r.Head)
	}
	if l == nil {
		return errGone(m)
	}
	return nil
}

func errGone(m *mapping) error {
	return primitives.Errorf(primitives.CodeFenced, "what mapping %s led to is gone", m.ID).Trying("map the volume again")
}

// present shows a mapping to callers.
func (s *session) presentMapping(m mapping, r record) (primitives.Mapping, error) {
	l := r.layer(m.Layer)
	if l == nil {
		return primitives.Mapping{}, errGone(&m)
	}
	chain := l.chain()
	file := &primitives.FileMap{Path: s.host(chain[0].file()), Format: l.Format}
	for _, below := range chain[1:] {
		file.Backing = append(file.Backing, primitives.FileMap{Path: s.host(below.file()), Format: below.Format})
	}
	return primitives.Mapping{
		ID: m.ID, URI: primitives.URI{Device: s.name, Volume: m.Name, Snapshot: m.Snapshot}, Handle: m.Of,
		Consumer: m.Consumer, Access: m.Access, Active: m.Active, Form: primitives.FormFile, File: file,
		Size: m.Size, Logical: granule, Physical: max(granule, s.fs.block),
		Discard: s.fs.punch && m.Access == primitives.ReadWrite, Direct: s.fs.direct, Epoch: m.Epoch,
	}, nil
}

// fileIdentity reads which file lies at the layer's path now.
func (s *session) fileIdentity(l layerRef) (string, error) {
	f, err := s.open(l.file(), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return "", primitives.Errorf(primitives.CodeFenced, "the file %s is gone", s.host(l.file()))
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	return identityOf(f), nil
}
