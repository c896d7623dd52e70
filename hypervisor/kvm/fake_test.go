// SPDX-License-Identifier: Apache-2.0

package kvm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/hypervisortest"
	"github.com/tenon-storage/tenon/hypervisor/kvm"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/fake"
	"github.com/tenon-storage/tenon/primitives"
)

const (
	onID  = "8b1f3f0e-0000-4000-8000-000000000001"
	offID = "8b1f3f0e-0000-4000-8000-000000000002"
)

// newFake returns a libvirt with a running domain and one that is off.
func newFake(t *testing.T) *fake.Libvirt {
	t.Helper()
	l := fake.New()
	for id, start := range map[string]bool{onID: true, offID: false} {
		name := map[bool]string{true: "on", false: "off"}[start]
		if err := l.Define(fake.DomainXML(id, name), start); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func newAdapter(t *testing.T, l *fake.Libvirt, o kvm.Options) *kvm.Adapter {
	t.Helper()
	a := kvm.NewOver(l.Open, o)
	t.Cleanup(func() { a.Close() })
	return a
}

// The adapter keeps the contract over a fake libvirt, where guests do what no
// real one can be made to do.
func TestContractOverFake(t *testing.T) {
	l := newFake(t)
	l.CheckFiles(func(path string) error { _, err := os.Stat(path); return err })
	l.SyncWithin(50 * time.Millisecond)
	behave := func(m fake.Manners) func(*testing.T, hypervisor.DomainID) func() {
		return func(_ *testing.T, d hypervisor.DomainID) func() {
			l.Behave(string(d), m)
			return func() { l.Behave(string(d), fake.Manners{}) }
		}
	}
	hypervisortest.Run(t, hypervisortest.Harness{
		Open: func(t *testing.T) hypervisor.Adapter {
			return kvm.NewOver(l.Open, kvm.Options{SnapshotDir: t.TempDir()})
		},
		Domain:   onID,
		Off:      offID,
		Boot:     func(*testing.T) { l.Start(offID) },
		Storages: fakeStorages(),
		Targets: []hypervisortest.Storage{{Name: "qcow2", New: func(t *testing.T, n int64) primitives.Mapping {
			m := fakeFile(t, "disk.qcow2", n)
			m.File.Format = primitives.FormatQcow2
			return m
		}}},
		NamedFile:  fakeFile,
		Buses:      []string{"scsi"},
		Brief:      100 * time.Millisecond,
		Deafen:     behave(fake.Manners{Deaf: true}),
		Refuse:     behave(fake.Manners{Refuses: true}),
		HangAgent:  behave(fake.Manners{HungAgent: true}),
		AgentLimit: 50 * time.Millisecond,
		Stall:      func(_ *testing.T, d hypervisor.DomainID) func() { return l.Stall(string(d)) },
		Transient: func(t *testing.T) hypervisor.DomainID {
			const id = "8b1f3f0e-0000-4000-8000-000000000003"
			if err := l.Define(fake.DomainXML(id, "transient"), true); err != nil {
				t.Fatal(err)
			}
			l.Undefine(id)
			t.Cleanup(func() { l.Kill(id) })
			return id
		},
		Kill: func(_ *testing.T, d hypervisor.DomainID) { l.Kill(string(d)) },
	})
}

func fakeFile(t *testing.T, name string, size int64) primitives.Mapping {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return primitives.Mapping{
		Form: primitives.FormFile, Access: primitives.ReadWrite, Size: size,
		File: &primitives.FileMap{Path: path, Format: primitives.FormatRaw},
	}
}

func fakeOverlay(t *testing.T, m primitives.Mapping) primitives.Mapping {
	t.Helper()
	chain := append([]primitives.FileMap{{Path: m.File.Path, Format: m.File.Format}}, m.File.Backing...)
	over := fakeFile(t, "overlay.qcow2", m.Size)
	over.File.Format, over.File.Backing = primitives.FormatQcow2, chain
	return over
}

func fakeStorages() []hypervisortest.Storage {
	grow := func(_ *testing.T, m primitives.Mapping, _ int64) primitives.Mapping { return m }
	return []hypervisortest.Storage{
		{
			Name: "raw file", New: func(t *testing.T, n int64) primitives.Mapping { return fakeFile(t, "disk.img", n) },
			Grow: grow, Overlay: fakeOverlay,
		},
		{Name: "qcow2 chain", Layered: true, New: func(t *testing.T, n int64) primitives.Mapping {
			return fakeOverlay(t, fakeOverlay(t, fakeFile(t, "base.img", n)))
		}, Grow: grow, Overlay: fakeOverlay},
		{Name: "block", New: func(t *testing.T, n int64) primitives.Mapping {
			return primitives.Mapping{
				Form: primitives.FormBlock, Access: primitives.ReadWrite, Direct: true, Size: n,
				Block: &primitives.BlockMap{Path: fmt.Sprintf("/dev/disk/by-id/%p", t)},
			}
		}},
		{Name: "nbd", New: func(t *testing.T, n int64) primitives.Mapping {
			return primitives.Mapping{
				Form: primitives.FormNetwork, Access: primitives.ReadWrite, Size: n,
				Network: &primitives.NetworkMap{Protocol: "nbd", Export: "the, export", Socket: filepath.Join(t.TempDir(), "nbd.sock")},
			}
		}},
	}
}
