// SPDX-License-Identifier: Apache-2.0

//go:build libvirt_dlopen

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/dir"
)

// few and many are numbers of volumes between which a look-up must not slow down.
const few, many = 50, 5000

// openDir opens a folder as a device and fills it with n volumes.
func (b *bench) openDir(ctx context.Context, path string, n int) (*storage.Device, error) {
	d, err := storage.Open(ctx, dir.Driver{}, primitives.OpenRequest{
		Name: "bench", Props: primitives.Props{"path": path},
		Host: primitives.HostInfo{ID: "bench", BootID: "bench", RunDir: b.dir},
	}, storage.Options{})
	if err != nil {
		return nil, err
	}
	b.undo = append(b.undo, func(context.Context) error { return d.Close() })
	for i := range n {
		w, err := d.Write(ctx, nth(i), primitives.WriteRequest{Create: true, Size: 1 << 20, Format: primitives.FormatRaw})
		if err != nil {
			return nil, err
		}
		if _, err := w.Commit(ctx); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func nth(i int) primitives.URI {
	return primitives.URI{Device: "bench", Volume: fmt.Sprintf("volume-%04d", i)}
}

// benchStat compares looking one volume up among many and among few.
func benchStat(ctx context.Context, b *bench) ([]row, error) {
	devices := map[int]*storage.Device{}
	for _, n := range []int{few, many} {
		path, err := b.folder(fmt.Sprint("stat-", n))
		if err != nil {
			return nil, err
		}
		if devices[n], err = b.openDir(ctx, path, n); err != nil {
			return nil, err
		}
	}
	took := map[int][]time.Duration{}
	for range runs {
		for _, n := range []int{few, many} {
			start := time.Now()
			for i := range few {
				if _, err := devices[n].Stat(ctx, nth(i*n/few), primitives.Op{}); err != nil {
					return nil, err
				}
			}
			took[n] = append(took[n], time.Since(start)/few)
		}
	}
	return []row{lowerIs(fmt.Sprintf("Stat among %d volumes", many), "ms", millis(median(took[many])),
		map[string]float64{fmt.Sprintf("among %d", few): millis(median(took[few]))}, 2)}, nil
}

// benchList measures the whole command that lists many volumes.
func benchList(ctx context.Context, b *bench) ([]row, error) {
	t, err := b.tenond(ctx, "")
	if err != nil {
		return nil, err
	}
	path, err := b.folder("list")
	if err != nil {
		return nil, err
	}
	d, err := b.openDir(ctx, path, many)
	if err != nil {
		return nil, err
	}
	if err := d.Close(); err != nil {
		return nil, err
	}
	if _, err := t.Run(ctx, "device", "add", "bench", "--driver", "dir", "-p", "path="+path); err != nil {
		return nil, err
	}
	var took []time.Duration
	for range runs {
		start := time.Now()
		var listed struct{ Volumes []struct{ URI string } }
		if err := t.RunJSON(ctx, &listed, "volume", "list", "bench"); err != nil {
			return nil, err
		}
		took = append(took, time.Since(start))
		if len(listed.Volumes) != many {
			return nil, fmt.Errorf("volume list shows %d volumes, not %d", len(listed.Volumes), many)
		}
	}
	return []row{lowerIs(fmt.Sprintf("tenonctl volume list of %d volumes", many), "ms", millis(median(took)), nil, 1000)}, nil
}
