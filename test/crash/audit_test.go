// SPDX-License-Identifier: Apache-2.0

package crash_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// audit compares what tenond tells, and what lies in the folders, with what the
// lanes were promised.
func (w *world) audit() {
	w.t.Helper()
	w.auditOperations()
	for _, d := range devices {
		want, tombs := w.promised(d.name)
		if diff := cmp.Diff(want, w.listed(d.name)); diff != "" {
			w.t.Errorf("device %s (-promised +listed):\n%s", d.name, diff)
		}
		if diff := cmp.Diff(tombs, w.tombstones(d.name)); diff != "" {
			w.t.Errorf("tombstones of %s (-promised +listed):\n%s", d.name, diff)
		}
	}
	w.auditFolders()
}

// promised is each object that the lanes count on, with its size, and the names
// of their tombstones.
func (w *world) promised(device string) (objects map[string]string, tombs []string) {
	objects = map[string]string{}
	for _, l := range w.lanes {
		for uri, c := range l.objects() {
			if strings.HasPrefix(uri, device+"/") {
				objects["tenon://"+uri] = fmt.Sprint("OBJECT_STATE_READY ", c.size)
			}
		}
		for _, p := range l.places {
			if p.device != device {
				continue
			}
			if p.buried != nil {
				tombs = append(tombs, "tenon://"+p.uri)
			}
			if p.there != nil {
				for name := range p.there.buried {
					tombs = append(tombs, "tenon://"+p.uri+"@"+name)
				}
			}
		}
	}
	slices.Sort(tombs)
	return objects, tombs
}

func (w *world) ask(answer any, args ...string) {
	w.t.Helper()
	if err := w.tenond.RunJSON(w.t.Context(), answer, args...); err != nil {
		w.t.Fatal(err)
	}
}

// listed is each object of a device that tenond tells of, with its size.
func (w *world) listed(device string) map[string]string {
	w.t.Helper()
	type object struct {
		URI, State string
		Size       string `json:"size_bytes"`
	}
	var volumes struct{ Volumes []object }
	var snapshots struct{ Snapshots []object }
	w.ask(&volumes, "volume", "list", device)
	w.ask(&snapshots, "snapshot", "list", device)
	all := map[string]string{}
	for _, o := range slices.Concat(volumes.Volumes, snapshots.Snapshots) {
		all[o.URI] = o.State + " " + o.Size
	}
	return all
}

func (w *world) tombstones(device string) (was []string) {
	w.t.Helper()
	var list struct{ Tombstones []struct{ Was string } }
	w.ask(&list, "volume", "list", device, "--tombstones")
	for _, t := range list.Tombstones {
		was = append(was, t.Was)
	}
	slices.Sort(was)
	return was
}

// operation is the part of an operation that tells how it ended.
type operation struct {
	ID, Kind, Subject, State string
	RequestID                string `json:"request_id"`
	Failure                  struct{ Code, Message string }
}

func (w *world) operations(ctx context.Context) ([]operation, error) {
	var list struct{ Operations []operation }
	err := w.tenond.RunJSON(ctx, &list, "operation", "list")
	return list.Operations, err
}

// auditOperations checks that each operation ended, well or with a reason.
func (w *world) auditOperations() {
	w.t.Helper()
	all, err := w.operations(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, o := range all {
		bad := o.State == "OPERATION_STATE_FAILED" || o.State == "OPERATION_STATE_CANCELLED"
		if o.State != "OPERATION_STATE_SUCCEEDED" && (!bad || o.Failure.Code == "" || o.Failure.Message == "") {
			w.t.Errorf("operation %s, %s of %s, is %s: %+v", o.ID, o.Kind, o.Subject, o.State, o.Failure)
		}
	}
}

// record is the part of a volume's record that says which files it needs.
type record struct {
	State  string
	Layers []struct {
		ID, Format string
		Below      []struct{ ID, Format string }
	}
	Snapshots []struct{ Next string }
}

// auditFolders checks that each file has a record that needs it and each record
// its files, and that nothing is under way.
func (w *world) auditFolders() {
	w.t.Helper()
	for _, d := range devices {
		folder := w.folder(d.name)
		have := map[string]bool{}
		for _, name := range names(w.t, filepath.Join(folder, "data")) {
			have[name] = true
		}
		owned := map[string]bool{}
		for _, records := range []string{"volumes", "trash"} {
			for _, name := range names(w.t, filepath.Join(folder, records)) {
				auditRecord(w.t, filepath.Join(folder, records, name), have, owned)
			}
		}
		if diff := cmp.Diff(slices.Sorted(maps.Keys(owned)), slices.Sorted(maps.Keys(have))); diff != "" {
			w.t.Errorf("files of %s (-owned +there):\n%s", d.name, diff)
		}
		for _, empty := range []string{"work", "mappings"} {
			for _, name := range names(w.t, filepath.Join(folder, empty)) {
				w.t.Errorf("%s/%s/%s was left over", d.name, empty, name)
			}
		}
	}
}

func auditRecord(t *testing.T, file string, have, owned map[string]bool) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
		return
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil || r.State != "ready" {
		t.Errorf("record %s: %v: %s", file, err, data)
	}
	for _, l := range r.Layers {
		owned[l.ID+"."+l.Format] = true
		for _, b := range l.Below {
			if !have[b.ID+"."+b.Format] {
				t.Errorf("record %s: layer %s stands on %s, which is gone", file, l.ID, b.ID)
			}
		}
	}
	for i, s := range r.Snapshots {
		if s.Next != "" {
			t.Errorf("record %s: snapshot %d still waits for a switch", file, i)
		}
	}
}

func names(t *testing.T, folder string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
