// SPDX-License-Identifier: Apache-2.0

package nbd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/internal/nbd"
)

// uri is how other clients are told of an export.
func (p peer) uri(export string) string { return "nbd+unix:///" + export + "?socket=" + p.socket }

// file writes content to a new file.
func file(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "raw")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// islands is a disk of diskSize with data in places, at odd offsets too.
func islands() []byte {
	disk := make([]byte, diskSize)
	for _, at := range []int64{0, 3*mib + 512, 10*mib + 1, diskSize - 9000} {
		copy(disk[at:], pattern(4, at, 9000))
	}
	return disk
}

func TestNbdinfoSeesWhatIsExported(t *testing.T) {
	boot, data := newMemory(mib), newMemory(2*mib)
	d := data.export("data")
	d.ReadOnly, d.Description, d.MinBlock, d.PreferredBlock, d.MaxPayload = true, "the second", 512, 64*kib, mib
	p, _ := serve(t, boot.export("boot"), d)
	var got struct {
		Protocol string
		Exports  []map[string]any
	}
	if err := json.Unmarshal([]byte(run(t, "nbdinfo", "--json", "--list", p.uri(""))), &got); err != nil {
		t.Fatal(err)
	}
	if got.Protocol != "newstyle-fixed" || len(got.Exports) != 2 {
		t.Fatalf("nbdinfo = %+v, want two exports", got)
	}
	for i, want := range []map[string]any{
		{
			"export-name": "boot", "export-size": float64(mib), "is_read_only": false, "can_flush": true, "can_fua": true,
			"can_trim": true, "can_zero": true, "can_multi_conn": true, "can_df": true, "can_fast_zero": false,
			"contexts": []any{"base:allocation"}, "block_size_minimum": 1.0, "block_size_maximum": 32.0 * mib,
		},
		{
			"export-name": "data", "export-size": 2.0 * mib, "is_read_only": true, "description": "the second",
			"block_size_minimum": 512.0, "block_size_preferred": 64.0 * kib, "block_size_maximum": 1.0 * mib,
		},
	} {
		for key, value := range want {
			if diff := cmp.Diff(value, got.Exports[i][key]); diff != "" {
				t.Errorf("export %d, %s (-want +got):\n%s", i, key, diff)
			}
		}
	}
}

func TestNbdinfoSeesTheHoles(t *testing.T) {
	m := newMemory(64 * kib)
	copy(m.bytes[8192:], pattern(1, 8192, 4096))
	p, _ := serve(t, m.export(""))
	got := strings.Fields(run(t, "nbdinfo", "--map", p.uri("")))
	want := strings.Fields("0 8192 3 hole,zero 8192 4096 0 data 12288 53248 3 hole,zero")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("map (-want +got):\n%s", diff)
	}
}

func TestNbdcopyCopiesBothWays(t *testing.T) {
	m, want := newMemory(diskSize), islands()
	p, _ := serve(t, m.export("disk"))
	run(t, "nbdcopy", "--flush", file(t, want), p.uri("disk"))
	differs(t, "copied in", 0, m.content(), want)
	if m.flushes.Load() == 0 {
		t.Error("nbdcopy --flush caused no Flush")
	}
	out := filepath.Join(t.TempDir(), "out")
	run(t, "nbdcopy", p.uri("disk"), out)
	got, err := os.ReadFile(out)
	if err != nil || len(got) != diskSize {
		t.Fatalf("copied out = %d bytes, %v, want %d", len(got), err, diskSize)
	}
	differs(t, "copied out", 0, got, want)
}

func TestQemuImgConvertsAndComparesEqual(t *testing.T) {
	m, want := newMemory(diskSize), islands()
	p, _ := serve(t, m.export("disk"))
	raw := file(t, want)
	run(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", raw, p.uri("disk"))
	differs(t, "converted in", 0, m.content(), want)
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", raw, p.uri("disk"))

	qcow2 := filepath.Join(t.TempDir(), "q")
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", p.uri("disk"), qcow2)
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, qcow2)
	mustWrite(t, dial(t, p, nbd.Options{}), 10*mib, []byte{0xff})
	if out, err := tryRun(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", p.uri("disk"), qcow2); err == nil {
		t.Errorf("compare after a changed byte = %s, want a difference", out)
	}
}

func TestQemuIOWritesZeroesTrimsAndFlushes(t *testing.T) {
	m := newMemory(mib)
	p, _ := serve(t, m.export("disk"))
	run(t, "qemu-io", "-f", "raw", p.uri("disk"),
		"-c", "write -P 7 0 512k", "-c", "write -f -P 9 4096 1024", // -f is FUA
		"-c", "write -z 8192 8192", "-c", "write -z -u 32768 8192", "-c", "discard 65536 65536", "-c", "flush",
		"-c", "read -P 7 0 4096", "-c", "read -P 9 4096 1024", "-c", "read -P 0 8192 8192", "-c", "read -P 7 511 1000")
	want := slices.Concat(slices.Repeat([]byte{7}, 512*kib), make([]byte, 512*kib))
	copy(want[4096:], slices.Repeat([]byte{9}, 1024))
	clear(want[8192:16384])
	clear(want[32768:40960])
	clear(want[65536:131072])
	differs(t, "disk", 0, m.content(), want)
	if m.flushes.Load() < 2 {
		t.Errorf("flushes = %d, want one for FUA and one for flush", m.flushes.Load())
	}
}

func TestServerSpeaksTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := newMemory(mib)
	serveOn(t, l, m.export("disk"))
	c, err := nbd.Dial(t.Context(), "tcp", l.Addr().String(), nbd.Options{Export: "disk"})
	if err != nil {
		t.Fatalf("Dial = %v, want nil", err)
	}
	want := pattern(8, 0, mib)
	mustWrite(t, c, 0, want)
	differs(t, "tcp", 0, mustRead(t, c, 0, mib), want)
	if err := c.Close(); err != nil {
		t.Errorf("Close = %v, want nil", err)
	}
	if out := run(t, "nbdinfo", "--size", "nbd://"+l.Addr().String()+"/disk"); out != fmt.Sprintln(mib) {
		t.Errorf("nbdinfo --size = %q, want %d", out, mib)
	}
}

func TestSlowRequestHoldsUpNoOther(t *testing.T) {
	m := newMemory(mib)
	reading, release := make(chan struct{}), make(chan struct{})
	m.before = func(_ context.Context, what string) error {
		if what == "read" {
			close(reading)
			<-release
		}
		return nil
	}
	p, _ := serve(t, m.export("disk"))
	c := dial(t, p, nbd.Options{})
	var wg sync.WaitGroup
	wg.Go(func() { mustRead(t, c, 0, 512) })
	<-reading
	mustWrite(t, c, 0, pattern(1, 0, mib))
	if err := c.Flush(t.Context()); err != nil {
		t.Errorf("Flush = %v, want nil", err)
	}
	close(release)
	wg.Wait()
}

func TestReplyToACancelledReadIsReadOver(t *testing.T) {
	m := newMemory(mib)
	want := pattern(6, 0, mib)
	copy(m.bytes, want)
	reading, release := make(chan struct{}, 2), make(chan struct{})
	m.before = func(_ context.Context, what string) error {
		reading <- struct{}{}
		<-release
		return nil
	}
	p, _ := serve(t, m.export("disk"))
	c := dial(t, p, nbd.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	buf := make([]byte, mib)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.ReadAt(ctx, buf, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("ReadAt = %v, want Canceled", err)
		}
		clear(buf) // ours again, while the reply is still to come
	})
	<-reading
	cancel()
	wg.Wait()
	close(release)
	differs(t, "next read", 0, mustRead(t, c, 0, mib), want)
	differs(t, "cancelled read's buffer", 0, buf, make([]byte, mib))
}

func TestBackendsErrorsReachTheClientWithTheirText(t *testing.T) {
	for name, c := range map[string]struct{ err, want error }{
		"no space":       {syscall.ENOSPC, syscall.ENOSPC},
		"over the quota": {syscall.EDQUOT, syscall.ENOSPC},
		"read-only":      {syscall.EROFS, syscall.EPERM},
		"unsupported":    {errors.ErrUnsupported, syscall.EINVAL},
		"anything else":  {errors.New("gremlins"), syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(mib)
			m.before = func(context.Context, string) error { return fmt.Errorf("disk on fire: %w", c.err) }
			p, _ := serve(t, m.export("disk"))
			client := dial(t, p, nbd.Options{})
			err := client.WriteAt(t.Context(), make([]byte, 512), 0, 0)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), "disk on fire") {
				t.Errorf("WriteAt = %v, want %v and the backend's words", err, c.want)
			}
			if err := client.Flush(t.Context()); !errors.Is(err, c.want) {
				t.Errorf("Flush = %v, want %v", err, c.want)
			}
		})
	}
}

func TestServeEndsWithItsContextAndTellsTheClients(t *testing.T) {
	m := newMemory(mib)
	reading := make(chan struct{})
	m.before = func(ctx context.Context, _ string) error {
		close(reading)
		<-ctx.Done()
		return ctx.Err()
	}
	p, stop := serve(t, m.export("disk"))
	c := dial(t, p, nbd.Options{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.ReadAt(t.Context(), make([]byte, 512), 0); !errors.Is(err, syscall.ESHUTDOWN) {
			t.Errorf("ReadAt = %v, want ESHUTDOWN", err)
		}
	})
	<-reading
	if err := stop(); err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
	wg.Wait()
	if err := c.ReadAt(t.Context(), make([]byte, 512), 0); !errors.Is(err, nbd.ErrDisconnected) {
		t.Errorf("ReadAt afterwards = %v, want ErrDisconnected", err)
	}
	if _, err := nbd.Dial(t.Context(), "unix", p.socket, nbd.Options{}); err == nil {
		t.Error("Dial after Serve ended = nil, want an error")
	}
}

func TestServeRefusesBadExportsAllAtOnce(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(shortDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	good := newMemory(mib).export("twice")
	err = nbd.Serve(t.Context(), l, good, good, nbd.Export{Name: "none"}, nbd.Export{Name: "odd", Backend: good.Backend, MinBlock: 3})
	if err == nil {
		t.Fatal("Serve = nil, want an error")
	}
	for _, want := range []string{"twice", "no backend", "MinBlock"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Serve = %v, want it to name %q", err, want)
		}
	}
}

func TestEmptyNameIsTheOnlyExport(t *testing.T) {
	one, two := newMemory(mib), newMemory(mib)
	p, _ := serve(t, one.export("one"))
	dial(t, p, nbd.Options{})
	p, _ = serve(t, one.export("one"), two.export("two"))
	if _, err := nbd.Dial(t.Context(), "unix", p.socket, nbd.Options{}); err == nil {
		t.Error("Dial of the empty name with two exports = nil, want an error")
	}
}

func TestEveryExportReadsItsOwnBytes(t *testing.T) {
	one, two := newMemory(mib), newMemory(mib)
	copy(one.bytes, pattern(1, 0, mib))
	copy(two.bytes, pattern(2, 0, mib))
	p, _ := serve(t, one.export("one"), two.export("two"))
	differs(t, "one", 0, mustRead(t, dial(t, p, nbd.Options{Export: "one"}), 0, mib), one.bytes)
	differs(t, "two", 0, mustRead(t, dial(t, p, nbd.Options{Export: "two"}), 0, mib), two.bytes)
}
