// SPDX-License-Identifier: Apache-2.0

package fake_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/fake"
	"github.com/tenon-storage/tenon/hypervisor/hypervisortest"
	"github.com/tenon-storage/tenon/primitives"
)

var files atomic.Int64

// file makes an empty image and maps it.
func file(t *testing.T, format primitives.Format, size int64) primitives.Mapping {
	t.Helper()
	path := filepath.Join(t.TempDir(), fmt.Sprintf("%d.img", files.Add(1)))
	return named(t, path, format, size)
}

func named(t *testing.T, path string, format primitives.Format, size int64) primitives.Mapping {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return primitives.Mapping{
		Form: primitives.FormFile, Access: primitives.ReadWrite, Size: size,
		File: &primitives.FileMap{Path: path, Format: format},
	}
}

func overlay(t *testing.T, m primitives.Mapping) primitives.Mapping {
	t.Helper()
	top := file(t, primitives.FormatQcow2, m.Size)
	below := *m.File
	below.Backing = nil
	top.File.Backing = append([]primitives.FileMap{below}, m.File.Backing...)
	return top
}

func storage(name string, format primitives.Format) hypervisortest.Storage {
	return hypervisortest.Storage{
		Name: name,
		New:  func(t *testing.T, size int64) primitives.Mapping { return file(t, format, size) },
		Grow: func(_ *testing.T, m primitives.Mapping, size int64) primitives.Mapping {
			m.Size = size
			return m
		},
		Overlay: overlay,
	}
}

func TestContract(t *testing.T) {
	h := fake.NewHost()
	on, off := h.Add("on", fake.Options{}), h.Add("off", fake.Options{Off: true})
	during := func(f func(hypervisor.DomainID) func()) func(*testing.T, hypervisor.DomainID) func() {
		return func(t *testing.T, d hypervisor.DomainID) func() {
			end := f(d)
			t.Cleanup(end)
			return end
		}
	}
	hypervisortest.Run(t, hypervisortest.Harness{
		Open:   func(*testing.T) hypervisor.Adapter { return h.Open() },
		Domain: on,
		Off:    off,
		Boot: func(t *testing.T) {
			a := h.Open()
			defer a.Close()
			if err := a.Start(t.Context(), off); err != nil {
				t.Fatal(err)
			}
		},
		Storages: []hypervisortest.Storage{storage("raw", primitives.FormatRaw), storage("qcow2", primitives.FormatQcow2)},
		NamedFile: func(t *testing.T, name string, size int64) primitives.Mapping {
			return named(t, filepath.Join(t.TempDir(), name), primitives.FormatRaw, size)
		},
		Buses:      []string{"scsi"},
		Brief:      100 * time.Millisecond,
		AgentLimit: 300 * time.Millisecond,
		Deafen:     during(h.Deafen),
		Refuse:     during(h.Refuse),
		Stall:      during(h.Stall),
		HangAgent:  during(h.HangAgent),
		Kill:       func(_ *testing.T, d hypervisor.DomainID) { h.Kill(d) },
	})
}
