// SPDX-License-Identifier: Apache-2.0

package fake_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/fake"
	"github.com/tenon-storage/tenon/hypervisor/hypervisortest"
	"github.com/tenon-storage/tenon/primitives"
)

const (
	onID  hypervisor.DomainID = "8b1f3f0e-0000-4000-8000-000000000001"
	offID hypervisor.DomainID = "8b1f3f0e-0000-4000-8000-000000000002"
)

// newHost returns a machine with a running domain and one that is off.
func newHost() *fake.Host {
	h := fake.NewHost()
	h.Define("on", onID, fake.DomainOptions{Running: true, Persistent: true, Agent: true})
	h.Define("off", offID, fake.DomainOptions{Agent: true})
	return h
}

// rawFile makes a file of holes and maps it.
func rawFile(t *testing.T, name string, size int64) primitives.Mapping {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return primitives.Mapping{
		Form: primitives.FormFile, Access: primitives.ReadWrite, Size: size,
		File: &primitives.FileMap{Path: path, Format: primitives.FormatRaw},
	}
}

// overlay makes what stands for a qcow2 file upon m.
func overlay(t *testing.T, m primitives.Mapping) primitives.Mapping {
	t.Helper()
	top := rawFile(t, "overlay.qcow2", 0)
	top.Size, top.File.Format = m.Size, primitives.FormatQcow2
	if m.Form == primitives.FormBlock {
		top.File.Backing = []primitives.FileMap{{Path: m.Block.Path, Format: primitives.FormatRaw}}
		return top
	}
	under := *m.File
	under.Backing = nil
	top.File.Backing = append([]primitives.FileMap{under}, m.File.Backing...)
	return top
}

func storages() []hypervisortest.Storage {
	same := func(_ *testing.T, m primitives.Mapping, _ int64) primitives.Mapping { return m }
	return []hypervisortest.Storage{
		{
			Name: "raw file", Overlay: overlay, Grow: same, // the hypervisor grows it
			New: func(t *testing.T, size int64) primitives.Mapping { return rawFile(t, "disk.img", size) },
		},
		{
			Name: "qcow2 chain", Layered: true, Overlay: overlay, Grow: same,
			New: func(t *testing.T, size int64) primitives.Mapping {
				return overlay(t, overlay(t, rawFile(t, "base.img", size)))
			},
		},
		{
			Name: "block", Overlay: overlay,
			New: func(t *testing.T, size int64) primitives.Mapping {
				path := rawFile(t, "device", size).File.Path
				return primitives.Mapping{Form: primitives.FormBlock, Access: primitives.ReadWrite, Size: size, Block: &primitives.BlockMap{Path: path}}
			},
			Grow: func(t *testing.T, m primitives.Mapping, size int64) primitives.Mapping {
				if err := os.Truncate(m.Block.Path, size); err != nil {
					t.Fatal(err)
				}
				m.Size = size
				return m
			},
		},
		{
			Name: "nbd",
			New: func(t *testing.T, size int64) primitives.Mapping {
				return primitives.Mapping{
					Form: primitives.FormNetwork, Access: primitives.ReadWrite, Size: size,
					Network: &primitives.NetworkMap{Protocol: "nbd", Export: "the, export", Socket: rawFile(t, "nbd.sock", 0).File.Path},
				}
			},
		},
	}
}

func TestContract(t *testing.T) {
	h := newHost()
	const brief = 100 * time.Millisecond
	h.LimitAgents(brief)
	on := func(behave func(hypervisor.DomainID) func()) func(*testing.T, hypervisor.DomainID) func() {
		return func(_ *testing.T, d hypervisor.DomainID) func() { return behave(d) }
	}
	hypervisortest.Run(t, hypervisortest.Harness{
		Open:   func(*testing.T) hypervisor.Adapter { return h.Adapter() },
		Domain: onID,
		Off:    offID,
		Boot: func(t *testing.T) {
			if err := h.Start(offID); err != nil {
				t.Fatal(err)
			}
		},
		Storages: storages(),
		Targets: []hypervisortest.Storage{{Name: "qcow2", New: func(t *testing.T, size int64) primitives.Mapping {
			m := rawFile(t, "disk.qcow2", 0)
			m.Size, m.File.Format = size, primitives.FormatQcow2
			return m
		}}},
		NamedFile:  rawFile,
		Buses:      []string{"scsi"},
		Brief:      brief,
		Deafen:     on(h.Deafen),
		Refuse:     on(h.Refuse),
		Stall:      on(h.Stall),
		HangAgent:  on(h.HangAgent),
		AgentLimit: brief,
		Transient: func(t *testing.T) hypervisor.DomainID {
			id := h.Add("transient", fake.Options{Transient: true})
			t.Cleanup(func() { h.Undefine(id) })
			return id
		},
		Kill: func(_ *testing.T, d hypervisor.DomainID) { h.Kill(d) },
	})
}
