// SPDX-License-Identifier: Apache-2.0

package nbd_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"github.com/tenon-storage/tenon/internal/nbd"
)

// BenchmarkRead reads 256 KiB at a time from our own server over a unix socket.
func BenchmarkRead(b *testing.B) {
	l, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	m := newMemory(diskSize)
	go func() { served <- nbd.Serve(ctx, l, m.export("disk")) }()
	defer func() { cancel(); <-served }()
	c, err := nbd.Dial(ctx, "unix", l.Addr().String(), nbd.Options{Export: "disk"})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	b.SetBytes(256 * kib)
	b.RunParallel(func(pb *testing.PB) {
		p := make([]byte, 256*kib)
		for pb.Next() {
			if err := c.ReadAt(ctx, p, 0); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
