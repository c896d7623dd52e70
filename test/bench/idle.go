// SPDX-License-Identifier: Apache-2.0

//go:build libvirt_dlopen

package main

import (
	"context"
	"time"

	"github.com/tenon-storage/tenon/test/host"
)

// benchIdle measures a daemon with two devices and a libvirt that has nothing to
// do: how soon it is ready, and what it takes of memory once everything settled.
func benchIdle(ctx context.Context, b *bench) ([]row, error) {
	l, err := host.StartLibvirtd(ctx, b.dir)
	if err != nil {
		return nil, err
	}
	b.undo = append(b.undo, l.Stop)
	t, err := b.tenond(ctx, l.URI())
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"one", "two"} {
		if _, err := b.addDevice(ctx, t, name); err != nil {
			return nil, err
		}
	}
	var ready, memory []time.Duration // memory: one nanosecond is one byte
	for range runs {
		if err := t.Stop(ctx); err != nil {
			return nil, err
		}
		took, err := t.Start(ctx)
		if err != nil {
			return nil, err
		}
		ready = append(ready, took)
		// Asking for everything once is what a management server does first.
		for _, ask := range [][]string{{"host", "show"}, {"device", "list"}, {"domain", "list"}, {"operation", "list"}} {
			if _, err := t.Run(ctx, ask...); err != nil {
				return nil, err
			}
		}
		resident, err := t.Resident()
		if err != nil {
			return nil, err
		}
		memory = append(memory, time.Duration(resident))
	}
	return []row{
		lowerIs("resident memory, idle, 2 devices", "MiB", float64(median(memory))/(1<<20), nil, 40),
		lowerIs("start until ready, 2 devices", "ms", millis(median(ready)), nil, 300),
	}, nil
}
