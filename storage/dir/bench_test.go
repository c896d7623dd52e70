// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"fmt"
	"testing"

	"github.com/tenon-storage/tenon/primitives"
)

// full returns a device with that many volumes.
func full(b *testing.B, volumes int) primitives.Backend {
	b.Helper()
	d := open(b, on(b, "tmpfs"))
	for i := range volumes {
		must(b, write(b, d, fmt.Sprintf("vol%05d", i), primitives.WriteRequest{Create: true, Size: mib, Format: primitives.FormatRaw}, nil))
	}
	return d
}

// BenchmarkStat must not grow with the number of volumes.
func BenchmarkStat(b *testing.B) {
	for _, n := range []int{50, 5000} {
		b.Run(fmt.Sprintf("of-%d", n), func(b *testing.B) {
			d := full(b, n)
			for b.Loop() {
				if _, err := d.Stat(b.Context(), vol("vol00025"), primitives.Op{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkListOf5000(b *testing.B) {
	d := full(b, 5000)
	for b.Loop() {
		r, seen := primitives.ListRequest{}, 0
		for {
			p, err := d.List(b.Context(), r)
			if err != nil {
				b.Fatal(err)
			}
			seen += len(p.Objects)
			if r.Cursor = p.Next; r.Cursor == "" {
				break
			}
		}
		if seen != 5000 {
			b.Fatalf("%d volumes listed", seen)
		}
	}
}

// BenchmarkOpenOf5000 is what a start of the agent pays.
func BenchmarkOpenOf5000(b *testing.B) {
	path := on(b, "tmpfs")
	d := open(b, path)
	for i := range 5000 {
		must(b, write(b, d, fmt.Sprintf("vol%05d", i), primitives.WriteRequest{Create: true, Size: mib, Format: primitives.FormatRaw}, nil))
	}
	o := request(b, path)
	for b.Loop() {
		must(b, openAs(b, o).Close())
	}
}

// BenchmarkAttach is the storage's part of an attach and a detach.
func BenchmarkAttach(b *testing.B) {
	d := open(b, on(b, "ext4"))
	create(b, d, "a", primitives.FormatRaw, seedA)
	f := d.Facets().Map
	for b.Loop() {
		m, err := f.Map(b.Context(), vol("a"), primitives.MapRequest{Access: primitives.ReadWrite, Consumer: "guest"})
		must(b, err)
		_, err = f.Activate(b.Context(), m.ID, primitives.Op{})
		must(b, err)
		must(b, f.Unmap(b.Context(), m.ID, primitives.UnmapRequest{}))
	}
}
