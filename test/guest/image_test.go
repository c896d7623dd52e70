// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/test/guest"
)

func TestParseDependsReadsOneFieldOfMany(t *testing.T) {
	for name, c := range map[string]struct {
		info string
		want []string
	}{
		"two modules":   {"license=GPL\x00depends=virtio,virtio_ring\x00intree=Y\x00", []string{"virtio", "virtio_ring"}},
		"no dependency": {"depends=\x00license=GPL\x00", nil},
		"no such field": {"license=GPL\x00softdep=depends=x\x00", nil},
	} {
		if got := guest.ParseDepends([]byte(c.info)); !cmp.Equal(got, c.want) {
			t.Errorf("%s: ParseDepends(%q) = %q, want %q", name, c.info, got, c.want)
		}
	}
}

func TestAMissingModuleIsNamed(t *testing.T) {
	missing := errors.New("virtio_moon is missing")
	_, err := guest.ModuleOrder([]string{"virtio_moon"}, func(string) ([]byte, error) { return nil, missing })
	if !errors.Is(err, missing) {
		t.Errorf("ModuleOrder of a module that cannot be read: error %v, want %v", err, missing)
	}
}

func TestCachedIsFilledOnceByManyCallers(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	var fills atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			dir, err := guest.Cached(t.Context(), "thing/one", func(dir string) error {
				fills.Add(1)
				return os.WriteFile(filepath.Join(dir, "file"), []byte("full"), 0o600)
			})
			if err != nil {
				t.Error(err)
			}
			if got, err := os.ReadFile(filepath.Join(dir, "file")); string(got) != "full" {
				t.Errorf("file holds %q (%v), want full", got, err)
			}
		})
	}
	all.Wait()
	if got := fills.Load(); got != 1 {
		t.Errorf("the cache was filled %d times, want once", got)
	}
}

func TestCachedLeavesNothingOfAFailedFill(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	broken := errors.New("no network")
	_, err := guest.Cached(t.Context(), "thing/one", func(dir string) error {
		return errors.Join(broken, os.WriteFile(filepath.Join(dir, "half"), nil, 0o600))
	})
	if !errors.Is(err, broken) {
		t.Errorf("Cached with a failing fill: error %v, want %v", err, broken)
	}
	left, err := os.ReadDir(filepath.Join(cache, "tenon/thing"))
	if err != nil || len(left) != 1 || left[0].Name() != ".lock" {
		t.Errorf("left after a failed fill: %v (%v), want the lock's file only", left, err)
	}
}

func TestCachedStopsWaitingWhenTheContextEnds(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	_, err := guest.Cached(t.Context(), "thing/one", func(string) error {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := guest.Cached(ctx, "thing/one", func(string) error { return nil })
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Cached while another one fills, with its context ended: error %v, want %v", err, context.Canceled)
	}
}
