// SPDX-License-Identifier: Apache-2.0

package dir_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage/dir"
)

// device is the name under which these tests open a directory.
const device = "d"

func vol(name string) primitives.URI { return primitives.URI{Device: device, Volume: name} }

func host(t testing.TB) primitives.HostInfo {
	t.Helper()
	return primitives.HostInfo{ID: "host", BootID: "boot", RunDir: scratch(t, mounts.dir)}
}

func request(t testing.TB, path string) primitives.OpenRequest {
	t.Helper()
	return primitives.OpenRequest{Name: device, Props: primitives.Props{"path": path}, Host: host(t)}
}

func open(t testing.TB, path string) primitives.Backend {
	t.Helper()
	return openAs(t, request(t, path))
}

func openAs(t testing.TB, o primitives.OpenRequest) primitives.Backend {
	t.Helper()
	// Also from a cleanup, when the test's own context has ended.
	b, err := dir.Driver{}.Open(context.WithoutCancel(t.Context()), o)
	if err != nil {
		t.Fatalf("Open(%s) = %v", o.Props["path"], err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func op(id string) primitives.Op { return primitives.Op{ID: id} }

// content returns bytes that belong to one seed.
func content(seed uint64, n int) []byte {
	p := make([]byte, n)
	for i, r := 0, rand.New(rand.NewPCG(seed, 1)); i < n; i += 8 {
		v := r.Uint64()
		for j := range min(8, n-i) {
			p[i+j] = byte(v >> (8 * j))
		}
	}
	return p
}

const mib = 1 << 20

// create makes a volume of 1 MiB and returns its content.
func create(t testing.TB, b primitives.Backend, name string, f primitives.Format, seed uint64) []byte {
	t.Helper()
	p := content(seed, mib)
	if err := write(t, b, name, primitives.WriteRequest{Op: op("create-" + name), Create: true, Size: mib, Format: f}, p); err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
	return p
}

// write opens a writer, puts p at the beginning and commits.
func write(t testing.TB, b primitives.Backend, name string, r primitives.WriteRequest, p []byte) error {
	t.Helper()
	w, err := b.Write(t.Context(), vol(name), r)
	if err != nil {
		return err
	}
	if _, err := w.WriteAt(p, 0); err != nil {
		return errors.Join(err, w.Abort(t.Context()))
	}
	_, err = w.Commit(t.Context())
	return err
}

// bytesOf reads all of a volume or snapshot.
func bytesOf(t testing.TB, b primitives.Backend, u primitives.URI) []byte {
	t.Helper()
	r, err := b.Read(t.Context(), u, primitives.Op{})
	if err != nil {
		t.Fatalf("Read(%s) = %v", u.Short(), err)
	}
	defer r.Close()
	p, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err != nil {
		t.Fatalf("read %s: %v", u.Short(), err)
	}
	return p
}

// holds checks the beginning of an object's content; what follows must be zero.
func holds(t testing.TB, b primitives.Backend, u primitives.URI, want []byte) {
	t.Helper()
	got := bytesOf(t, b, u)
	if len(got) < len(want) || !bytes.Equal(got[:len(want)], want) {
		t.Errorf("%s holds other bytes than were written", u.Short())
		return
	}
	if rest := got[len(want):]; !bytes.Equal(rest, make([]byte, len(rest))) {
		t.Errorf("%s is not zero behind what was written", u.Short())
	}
}

// refused checks an error's code, and that it says what to try where it can.
func refused(t testing.TB, err error, code primitives.Code, what string) *primitives.Error {
	t.Helper()
	e, ok := errors.AsType[*primitives.Error](err)
	if !ok || e.Code != code {
		t.Errorf("%s = %v, want code %v", what, err, code)
		return &primitives.Error{}
	}
	return e
}

// onDisk is the part of a record that says which files belong to it.
type onDisk struct {
	State     string
	Handle    string
	Head      string
	Layers    []struct{ ID, Format string }
	Delinked  struct{ Dying bool }
	Snapshots []struct {
		Layer, Next string
		Clones      []struct{ Handle string }
		Delinked    struct{ Dying bool }
	}
}

// dying reports whether the layer may be gone because its destroy began.
func (r onDisk) dying(layer string) bool {
	for _, s := range r.Snapshots {
		if s.Layer == layer && s.Delinked.Dying {
			return true
		}
	}
	return r.Delinked.Dying
}

// audit checks that nothing is lost and nothing is orphaned: every file has a
// record that needs it, every record has its files, nothing is under way, and
// every clone that a snapshot knows of exists. Nobody may have the device open.
func audit(t testing.TB, path string) {
	t.Helper()
	if err := open(t, path).Close(); err != nil {
		t.Errorf("Close() = %v", err)
	}
	needed, handles, all := map[string]bool{}, map[string]bool{}, map[string]onDisk{}
	for _, folder := range []string{"volumes", "trash"} {
		for _, name := range entries(t, filepath.Join(path, folder)) {
			r := readRecord(t, filepath.Join(path, folder, name))
			all[folder+"/"+name], handles[r.Handle] = r, true
			for _, l := range r.Layers {
				needed[l.ID+"."+l.Format] = true
			}
		}
	}
	data := dataFolder(t, path)
	for name, r := range all {
		auditRecord(t, data, name, r, handles)
	}
	for _, name := range entries(t, data) {
		if !needed[name] {
			t.Errorf("data/%s belongs to nothing", name)
		}
	}
	for _, name := range entries(t, filepath.Join(path, "work")) {
		t.Errorf("work/%s was left behind", name)
	}
}

// dataFolder is where the bytes lie: in one place or, fenced, in the other.
func dataFolder(t testing.TB, path string) string {
	t.Helper()
	data, aside := filepath.Join(path, "data"), filepath.Join(path, "data.fenced")
	if _, err := os.Lstat(aside); err != nil {
		return data
	}
	if _, err := os.Lstat(data); err == nil {
		t.Errorf("%s and %s are both there", data, aside)
	}
	return aside
}

func readRecord(t testing.TB, file string) onDisk {
	t.Helper()
	var r onDisk
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		t.Errorf("record %s: %v", file, err)
	}
	return r
}

func auditRecord(t testing.TB, data, name string, r onDisk, handles map[string]bool) {
	t.Helper()
	if strings.Contains(name, ".tmp-") {
		t.Errorf("%s was left behind", name)
	}
	layers := map[string]bool{}
	for _, l := range r.Layers {
		layers[l.ID] = true
		_, err := os.Lstat(filepath.Join(data, l.ID+"."+l.Format))
		if err != nil && r.State != "creating" && !r.dying(l.ID) {
			t.Errorf("%s has lost a file: %v", name, err)
		}
	}
	reached := map[string]bool{r.Head: true}
	for _, s := range r.Snapshots {
		reached[s.Layer], reached[s.Next] = true, true
		for _, c := range s.Clones {
			if !handles[c.Handle] {
				t.Errorf("%s is kept for clone %s, which does not exist", name, c.Handle)
			}
		}
	}
	for id := range reached {
		if id != "" && !layers[id] {
			t.Errorf("%s needs layer %s, which it does not have", name, id)
		}
	}
}

func describe(o primitives.Object) string {
	return fmt.Sprintf("%s %v %v %d bytes", o.URI.Short(), o.Kind, o.State, o.Size)
}
