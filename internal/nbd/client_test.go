// SPDX-License-Identifier: Apache-2.0

package nbd_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/internal/nbd"
)

const diskSize = 16 * mib

// peers are writable disks of diskSize on every server that we know.
var peers = map[string]func(t *testing.T) (peer, nbd.Options){
	"nbdkit memory": func(t *testing.T) (peer, nbd.Options) {
		return nbdkit(t, "memory", "16M"), nbd.Options{}
	},
	"nbdkit memory, simple replies": func(t *testing.T) (peer, nbd.Options) {
		return nbdkit(t, "--no-sr", "memory", "16M"), nbd.Options{}
	},
	"nbdkit memory, no zeroing, no FUA": func(t *testing.T) (peer, nbd.Options) {
		return nbdkit(t, "--filter=nozero", "--filter=fua", "memory", "16M", "zeromode=none"), nbd.Options{}
	},
	"nbdkit memory, small requests": func(t *testing.T) (peer, nbd.Options) {
		return nbdkit(t, "--filter=blocksize-policy", "memory", "16M", "blocksize-minimum=512",
			"blocksize-maximum=64K", "blocksize-error-policy=error"), nbd.Options{}
	},
	"qemu-nbd raw": func(t *testing.T) (peer, nbd.Options) {
		return qemuNBD(t, "-f", "raw", image(t, "raw", diskSize)), nbd.Options{}
	},
	"qemu-nbd qcow2": func(t *testing.T) (peer, nbd.Options) {
		return qemuNBD(t, "-f", "qcow2", image(t, "qcow2", diskSize)), nbd.Options{MaxRequest: 300 * kib}
	},
	"qemu-storage-daemon qcow2": func(t *testing.T) (peer, nbd.Options) {
		return storageDaemon(t, "qcow2", image(t, "qcow2", diskSize)), nbd.Options{Export: "vol"}
	},
	"our own server": func(t *testing.T) (peer, nbd.Options) {
		p, _ := serve(t, newMemory(diskSize).export("disk"))
		return p, nbd.Options{Export: "disk"}
	},
	"our own server, small requests": func(t *testing.T) (peer, nbd.Options) {
		e := newMemory(diskSize).export("disk")
		e.MinBlock, e.PreferredBlock, e.MaxPayload = 512, 512, 10*kib
		p, _ := serve(t, e)
		return p, nbd.Options{Export: "disk"}
	},
	"our own server in front of nbdkit": func(t *testing.T) (peer, nbd.Options) {
		behind := dial(t, nbdkit(t, "memory", "16M"), nbd.Options{MetaContexts: []string{nbd.BaseAllocation}})
		p, _ := serve(t, nbd.Export{
			Name: "disk", Size: behind.Size(), Backend: behind,
			Extents: func(ctx context.Context, off, length int64) iter.Seq2[nbd.Extent, error] {
				return behind.Extents(ctx, nbd.BaseAllocation, off, length)
			},
		})
		return p, nbd.Options{Export: "disk"}
	},
}

// eachPeer runs check on a new disk of every server.
func eachPeer(t *testing.T, metaContexts []string, check func(t *testing.T, c *nbd.Client)) {
	for name, open := range peers {
		t.Run(name, func(t *testing.T) {
			p, o := open(t)
			o.MetaContexts = metaContexts
			check(t, dial(t, p, o))
		})
	}
}

func TestSizeIsTheDisks(t *testing.T) {
	eachPeer(t, nil, func(t *testing.T, c *nbd.Client) {
		if c.Size() != diskSize || c.Info().ReadOnly {
			t.Errorf("Info = %+v, want a writable disk of %d bytes", c.Info(), diskSize)
		}
	})
}

// block is what every peer's minimum block size divides.
const block = 512

func TestWrittenBytesAreReadBackWhereTheyWereWritten(t *testing.T) {
	eachPeer(t, nil, func(t *testing.T, c *nbd.Client) {
		want := make([]byte, diskSize)
		rnd := rand.New(rand.NewPCG(1, 2))
		var wg sync.WaitGroup
		for range 16 { // disjoint pieces, all at once
			n := (1 + rnd.IntN(3000)) * block
			at := rnd.IntN((diskSize-n)/block) * block
			if slices.ContainsFunc(want[at:at+n], func(b byte) bool { return b != 0 }) {
				continue
			}
			copy(want[at:], pattern(7, int64(at), n))
			wg.Go(func() {
				if err := c.WriteAt(t.Context(), want[at:at+n], int64(at), nbd.FUA); err != nil {
					t.Errorf("WriteAt = %v, want nil", err)
				}
			})
		}
		wg.Wait()
		if err := c.Flush(t.Context()); err != nil {
			t.Errorf("Flush = %v, want nil", err)
		}
		differs(t, "whole disk in one read", 0, mustRead(t, c, 0, diskSize), want)
		for range 32 {
			n := (1 + rnd.IntN(300)) * block
			at := rnd.IntN((diskSize-n)/block) * block
			wg.Go(func() { differs(t, "piece", int64(at), mustRead(t, c, int64(at), n), want[at:at+n]) })
		}
		wg.Wait()
	})
}

func TestZeroedRangeReadsAsZeroesAndItsNeighboursStay(t *testing.T) {
	eachPeer(t, nil, func(t *testing.T, c *nbd.Client) {
		for name, flags := range map[string]nbd.Flags{"hole": 0, "no hole": nbd.NoHole, "durable": nbd.FUA} {
			want := pattern(3, 0, 4*mib)
			mustWrite(t, c, 0, want)
			const from, to = 512 * 3, 3*mib - 512
			clear(want[from:to])
			if err := c.WriteZeroes(t.Context(), from, to-from, flags); err != nil {
				t.Fatalf("WriteZeroes, %s = %v, want nil", name, err)
			}
			differs(t, name, 0, mustRead(t, c, 0, len(want)), want)
		}
	})
}

func TestFastZeroIsFastOrTypedRefusal(t *testing.T) {
	eachPeer(t, nil, func(t *testing.T, c *nbd.Client) {
		want := pattern(3, 0, 128*kib)
		mustWrite(t, c, 0, want)
		switch err := c.WriteZeroes(t.Context(), 0, int64(len(want)), nbd.FastZero); {
		case err == nil:
			clear(want)
		case !errors.Is(err, errors.ErrUnsupported):
			t.Errorf("WriteZeroes = %v, want nil or ErrUnsupported", err)
		}
		differs(t, "after fast zero", 0, mustRead(t, c, 0, len(want)), want)
	})
}

func TestTrimLeavesTheRestAlone(t *testing.T) {
	eachPeer(t, nil, func(t *testing.T, c *nbd.Client) {
		want := pattern(5, 0, 4*mib)
		mustWrite(t, c, 0, want)
		if err := c.Trim(t.Context(), mib, mib, nbd.FUA); err != nil {
			t.Fatalf("Trim = %v, want nil", err)
		}
		got := mustRead(t, c, 0, len(want))
		differs(t, "before the trimmed part", 0, got[:mib], want[:mib])
		differs(t, "after the trimmed part", 2*mib, got[2*mib:], want[2*mib:])
	})
}

func TestRequestsBeyondTheEndAreRefusedAsTheServerWould(t *testing.T) {
	eachPeer(t, []string{nbd.BaseAllocation}, func(t *testing.T, c *nbd.Client) {
		ctx, buf := t.Context(), make([]byte, 1024)
		for name, got := range map[string]struct{ err, want error }{
			"read":                {c.ReadAt(ctx, buf, diskSize-512), syscall.EINVAL},
			"write":               {c.WriteAt(ctx, buf, diskSize-512, 0), syscall.ENOSPC},
			"write zeroes":        {c.WriteZeroes(ctx, diskSize, 512, 0), syscall.ENOSPC},
			"trim":                {c.Trim(ctx, diskSize, 512, 0), syscall.EINVAL},
			"negative":            {c.ReadAt(ctx, buf, -512), syscall.EINVAL},
			"sum that wraps":      {c.WriteZeroes(ctx, 1<<63-512, 1<<63-512, 0), syscall.ENOSPC},
			"nothing, at the end": {c.ReadAt(ctx, nil, diskSize), nil},
		} {
			if !errors.Is(got.err, got.want) {
				t.Errorf("%s = %v, want %v", name, got.err, got.want)
			}
		}
		differs(t, "after refusals", 0, mustRead(t, c, 0, 512), make([]byte, 512))
	})
}

func TestMinimumBlockSizeIsHonouredByRefusal(t *testing.T) {
	c := dial(t, nbdkit(t, "--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=4096", "blocksize-error-policy=error"),
		nbd.Options{MetaContexts: []string{nbd.BaseAllocation}})
	for _, r := range []struct{ off, n int64 }{{0, 4095}, {1, 4096}, {4096, 512}, {512, 4096}} {
		if err := c.WriteAt(t.Context(), make([]byte, r.n), r.off, 0); !errors.Is(err, nbd.ErrUnaligned) {
			t.Errorf("WriteAt(%d bytes at %d) = %v, want ErrUnaligned", r.n, r.off, err)
		}
		if err := c.ReadAt(t.Context(), make([]byte, r.n), r.off); !errors.Is(err, nbd.ErrUnaligned) {
			t.Errorf("ReadAt(%d bytes at %d) = %v, want ErrUnaligned", r.n, r.off, err)
		}
	}
	// A question about part of a block is answered: it changes nothing.
	want := []nbd.Extent{{Offset: 100, Length: 5000, Flags: nbd.StateHole | nbd.StateZero}}
	if diff := cmp.Diff(want, mustExtents(t, c, nbd.BaseAllocation, 100, 5000)); diff != "" {
		t.Errorf("extents (-want +got):\n%s", diff)
	}
}

func TestServerErrorsAreErrnos(t *testing.T) {
	for name, want := range map[string]syscall.Errno{
		"EPERM": syscall.EPERM, "EIO": syscall.EIO, "ENOMEM": syscall.ENOMEM, "EINVAL": syscall.EINVAL, "ENOSPC": syscall.ENOSPC,
	} {
		for _, mode := range []string{"--no-sr", "-v"} { // simple and structured replies
			t.Run(name+mode, func(t *testing.T) {
				c := dial(t, nbdkit(t, mode, "--filter=error", "memory", "1M", "error="+name, "error-rate=100%"), nbd.Options{})
				ctx, buf := t.Context(), make([]byte, 4096)
				for what, err := range map[string]error{
					"read": c.ReadAt(ctx, buf, 0), "write": c.WriteAt(ctx, buf, 0, 0),
					"zero": c.WriteZeroes(ctx, 0, 4096, 0), "trim": c.Trim(ctx, 0, 4096, 0),
				} {
					e, ok := errors.AsType[*nbd.Error](err)
					if !ok || !errors.Is(err, want) || e.Length != 4096 {
						t.Errorf("%s = %v, want an *nbd.Error of %v", what, err, want)
					}
				}
			})
		}
	}
}

func TestFailedPartFailsTheWhole(t *testing.T) {
	c := dial(t, nbdkit(t, "--filter=error", "memory", "16M", "error=ENOSPC", "error-pwrite-rate=20%"), nbd.Options{MaxRequest: 64 * kib})
	if err := c.WriteAt(t.Context(), make([]byte, 16*mib), 0, 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("WriteAt in 256 parts, of which a fifth fails = %v, want ENOSPC", err)
	}
	mustRead(t, c, 0, 16*mib)
}

func TestReadOnlyExportRefusesChanges(t *testing.T) {
	c := dial(t, qemuNBD(t, "--read-only", "-f", "raw", image(t, "raw", mib)), nbd.Options{})
	ctx := t.Context()
	for name, err := range map[string]error{
		"write": c.WriteAt(ctx, make([]byte, 512), 0, 0),
		"zero":  c.WriteZeroes(ctx, 0, 512, 0),
		"trim":  c.Trim(ctx, 0, 512, 0),
	} {
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s = %v, want ErrPermission", name, err)
		}
	}
	mustRead(t, c, 0, mib)
}

func TestUnknownExportDoesNotExist(t *testing.T) {
	p := storageDaemon(t, "raw", image(t, "raw", mib))
	_, err := nbd.Dial(t.Context(), "unix", p.socket, nbd.Options{Export: "nonesuch"})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Dial = %v, want ErrNotExist", err)
	}
}

func TestListNamesTheExports(t *testing.T) {
	p := storageDaemon(t, "raw", image(t, "raw", mib))
	got, err := nbd.List(t.Context(), "unix", p.socket)
	if err != nil || len(got) != 1 || got[0].Name != "vol" {
		t.Errorf("List = %v, %v, want vol", got, err)
	}
}

func TestAtIsAReaderAndWriterOfPackageIO(t *testing.T) {
	c := dial(t, nbdkit(t, "memory", "1M"), nbd.Options{})
	at := c.At(t.Context())
	want := pattern(1, 0, mib)
	if n, err := at.WriteAt(want, 0); n != mib || err != nil {
		t.Errorf("WriteAt = %d, %v, want all", n, err)
	}
	got, err := io.ReadAll(io.NewSectionReader(at, 0, 1<<40))
	if err != nil || len(got) != mib {
		t.Fatalf("ReadAll = %d bytes, %v, want %d", len(got), err, mib)
	}
	differs(t, "section", 0, got, want)
}

func TestClosedClientRefusesRequests(t *testing.T) {
	c := dial(t, nbdkit(t, "memory", "1M"), nbd.Options{})
	for range 2 {
		if err := c.Close(); err != nil {
			t.Errorf("Close = %v, want nil", err)
		}
	}
	if err := c.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, nbd.ErrClosed) {
		t.Errorf("ReadAt = %v, want ErrClosed", err)
	}
}

func TestServerDeathFailsEveryRequestAtOnce(t *testing.T) {
	p := nbdkit(t, "--filter=delay", "memory", "1M", "rdelay=1000")
	c := dial(t, p, nbd.Options{})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := c.ReadAt(t.Context(), make([]byte, 512), 0); !errors.Is(err, nbd.ErrDisconnected) {
				t.Errorf("ReadAt = %v, want ErrDisconnected", err)
			}
		})
	}
	mustWrite(t, c, 0, make([]byte, 512)) // answered beside the reads that wait
	p.process.Signal(syscall.SIGKILL)
	wg.Wait()
	if err := c.ReadAt(t.Context(), make([]byte, 512), 0); !errors.Is(err, nbd.ErrDisconnected) {
		t.Errorf("ReadAt afterwards = %v, want ErrDisconnected", err)
	}
}

func TestEndOfContextFreesTheCallerAndNotTheConnection(t *testing.T) {
	c := dial(t, nbdkit(t, "--filter=delay", "memory", "1M", "rdelay=300ms"), nbd.Options{})
	want := pattern(9, 0, mib)
	mustWrite(t, c, 0, want)
	buf := make([]byte, mib)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.ReadAt(ctx, buf, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("ReadAt = %v, want Canceled", err)
		}
		clear(buf) // ours again: the race detector sees a late write
	})
	cancel()
	wg.Wait()
	differs(t, "after a cancelled read", 0, mustRead(t, c, 0, mib), want)
	differs(t, "cancelled read's buffer", 0, buf, make([]byte, mib))
}

func TestTimeoutBoundsARequest(t *testing.T) {
	p := nbdkit(t, "--filter=delay", "memory", "1M", "rdelay=1000")
	c := dial(t, p, nbd.Options{Timeout: 1})
	if err := c.ReadAt(t.Context(), make([]byte, 512), 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ReadAt = %v, want DeadlineExceeded", err)
	}
	p.process.Signal(syscall.SIGKILL)
}

func TestEndedContextConnectsToNothing(t *testing.T) {
	p := nbdkit(t, "memory", "1M")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := nbd.Dial(ctx, "unix", p.socket, nbd.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial = %v, want Canceled", err)
	}
}
