// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
)

// swapping replaces the file, by rename, with what each of makers makes in turn,
// until the test has ended.
func swapping(t *testing.T, file string, makers ...func(at string) error) {
	t.Helper()
	next := filepath.Join(filepath.Dir(file), ".tmp-next")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := errors.Join(makers[i%len(makers)](next), os.Rename(next, file)); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	t.Cleanup(func() {
		stop()
		must(t, <-ended)
	})
}

// TestARecordThatIsReplacedIsStillRead lists and looks up while the record of a
// volume is replaced all the time, as every change of it does. Between a look at
// the name and the opening of it another record can come: that is the record then.
func TestARecordThatIsReplacedIsStillRead(t *testing.T) {
	at := on(t, "tmpfs")
	b := open(t, at)
	create(t, b, "a", primitives.FormatRaw, seedA)
	file := filepath.Join(at, "volumes", "=a.json")
	record, err := os.ReadFile(file)
	must(t, err)
	swapping(t, file, func(next string) error { return os.WriteFile(next, record, 0o600) })
	for range 2000 {
		p, err := b.List(t.Context(), primitives.ListRequest{})
		must(t, err)
		if len(p.Objects) != 1 || p.Objects[0].State != primitives.Ready || p.Objects[0].Size != mib {
			t.Fatalf("List() beside changes = %+v, want the volume", p.Objects)
		}
		if _, err := b.Stat(t.Context(), vol("a"), primitives.Op{}); err != nil {
			t.Fatalf("Stat() beside changes = %v", err)
		}
	}
}

// TestNoLinkOrPipeIsOpenedThatComesWhileARecordIsOpened swaps them in between
// the look and the opening: a pipe would block it, a link would be followed.
func TestNoLinkOrPipeIsOpenedThatComesWhileARecordIsOpened(t *testing.T) {
	at := on(t, "tmpfs")
	b := open(t, at)
	create(t, b, "a", primitives.FormatRaw, seedA)
	create(t, b, "b", primitives.FormatRaw, seedB)
	file := filepath.Join(at, "volumes", "=a.json")
	record, err := os.ReadFile(file)
	must(t, err)
	whole := func(next string) error { return os.WriteFile(next, record, 0o600) }
	swapping(t, file,
		whole, func(next string) error { return unix.Mkfifo(next, 0o600) },
		whole, func(next string) error { return os.Symlink("=b.json", next) })
	found := 0
	for range 2000 {
		o, err := statWithin(t, b, vol("a"))
		switch {
		case err != nil && !errors.Is(err, primitives.CodeFenced):
			t.Fatalf("Stat() beside a swap = %v, want the volume or CodeFenced", err)
		case err == nil && o.URI.Volume != "a":
			t.Fatalf("Stat() beside a swap = %s, want a", o.URI.Short())
		case err == nil:
			found++
		}
	}
	if found == 0 {
		t.Error("the record was never there; the test tried nothing")
	}
}

// statWithin fails the test where Stat blocks, which its context does not end.
func statWithin(t *testing.T, b primitives.Backend, u primitives.URI) (primitives.Object, error) {
	t.Helper()
	type answer struct {
		o   primitives.Object
		err error
	}
	done := make(chan answer, 1)
	go func() {
		o, err := b.Stat(t.Context(), u, primitives.Op{})
		done <- answer{o, err}
	}()
	select {
	case a := <-done:
		return a.o, a.err
	case <-time.After(10 * time.Second):
		t.Fatal("Stat() blocks")
		return primitives.Object{}, nil
	}
}

// TestAWriteThatCommitsNeverLooksInterrupted looks volumes up while they are
// made. A record is read before its lock, and the commit may come in between.
func TestAWriteThatCommitsNeverLooksInterrupted(t *testing.T) {
	b := open(t, on(t, "tmpfs"))
	const volumes = 300
	made := make(chan error, 1)
	go func() {
		for i := range volumes {
			r := primitives.WriteRequest{Op: op(fmt.Sprint("make ", i)), Create: true, Size: 4096, Format: primitives.FormatRaw}
			if err := putAll(t.Context(), b, fmt.Sprint("v", i), r, content(seedA, 4096)); err != nil {
				made <- err
				return
			}
		}
		made <- nil
	}()
	for i, ended := 0, false; i < volumes; {
		select {
		case err := <-made:
			must(t, err)
			ended = true
		default:
		}
		o, err := b.Stat(t.Context(), vol(fmt.Sprint("v", i)), primitives.Op{})
		if err == nil && o.State == primitives.Ready {
			i++
		} else if ended || !errors.Is(err, primitives.CodeNotFound) {
			t.Fatalf("Stat() of a volume that is being made = %v, %v; want none, then a ready one", o.State, err)
		}
	}
}
