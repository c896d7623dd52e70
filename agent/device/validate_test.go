// SPDX-License-Identifier: Apache-2.0

package device_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/agent/device"
	"github.com/tenon-storage/tenon/agent/journal"
	"github.com/tenon-storage/tenon/agent/operation"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/mem"
)

// locked is mem whose devices must have a token.
type locked struct{ *mem.Driver }

func (l locked) Info() primitives.DriverInfo {
	info := l.Driver.Info()
	info.Schema.Props = slices.Clone(info.Schema.Props)
	for i, p := range info.Schema.Props {
		if p.Name == "token" {
			info.Schema.Props[i].Required = true
		}
	}
	return info
}

// room is a registry with one device, fast, that has a capacity and a token.
type room struct {
	*device.Registry
	journal *journal.Journal
	engine  *operation.Engine
}

func newRoom(t *testing.T) room {
	t.Helper()
	j, err := journal.Open(filepath.Join(t.TempDir(), "journal.db"), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	drivers, err := storage.NewTable(locked{mem.New()})
	if err != nil {
		t.Fatal(err)
	}
	e := operation.New(j, operation.Options{})
	r, err := device.New(j, e, drivers, device.Options{
		StateDir: t.TempDir(), Host: primitives.HostInfo{ID: "h", BootID: "b", RunDir: t.TempDir()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.Stop(t.Context())
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	op, err := r.Add(t.Context(), device.Spec{
		Name: "fast", Driver: mem.Name, Props: primitives.Props{"store": "fast", "capacity": "64M"}, Secrets: token("sesame"),
	}, device.Origin{})
	if err == nil {
		op, err = e.Wait(t.Context(), op.ID)
	}
	if err != nil || op.State != operation.Succeeded {
		t.Fatalf("Add = %v, %v", op, err)
	}
	return room{r, j, e}
}

func token(s string) primitives.Secrets {
	return primitives.NewSecrets(map[string][]byte{"token": []byte(s)})
}

// use records that a disk has a volume of fast.
func (r room) use(t *testing.T) {
	t.Helper()
	err := r.journal.Update(func(tx *journal.Tx) error {
		return device.Admit(tx, journal.Use{ID: "disk-t1", Kind: journal.UseDisk, URI: primitives.URI{Device: "fast", Volume: "v"}, Access: primitives.ReadWrite})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAnEditIsValidatedAsTheUpdateWouldBe(t *testing.T) {
	for sentence, c := range map[string]struct {
		edit device.Edit
		used bool
		want map[string]string // field to what its problem says
	}{
		"the stored secret counts":            {edit: device.Edit{Set: primitives.Props{"note": "x"}}},
		"an offline change of an idle device": {edit: device.Edit{Set: primitives.Props{"capacity": "32M"}}},
		"an online change of a device in use": {edit: device.Edit{Set: primitives.Props{"note": "x"}}, used: true},
		"a secret that the storage knows":     {edit: device.Edit{Secrets: token("sesame")}},
		"a secret that the storage refuses":   {edit: device.Edit{Secrets: token("open")}, want: map[string]string{"secrets.token": "not the token"}},
		"a removal":                           {edit: device.Edit{Remove: []string{"capacity"}}},
		"a removal of what is not set":        {edit: device.Edit{Remove: []string{"note"}}},
		"what is fixed at creation":           {edit: device.Edit{Set: primitives.Props{"store": "slow"}}, want: map[string]string{"properties.store": "fixed at creation"}},
		"an offline change of a device in use": {
			edit: device.Edit{Set: primitives.Props{"capacity": "32M"}}, used: true, want: map[string]string{"properties.capacity": "only while nothing uses"},
		},
		"a removal from a device in use": {
			edit: device.Edit{Remove: []string{"capacity"}}, used: true, want: map[string]string{"properties.capacity": "only while nothing uses"},
		},
		"a removed property that is required": {edit: device.Edit{Remove: []string{"store"}}, want: map[string]string{"properties.store": "required"}},
		"a removed secret that is required":   {edit: device.Edit{Remove: []string{"token"}}, want: map[string]string{"secrets.token": "required"}},
		"a removal of what nothing has":       {edit: device.Edit{Remove: []string{"frob"}}, want: map[string]string{"properties.frob": "no such property"}},
		"every mistake at once": {
			edit: device.Edit{Set: primitives.Props{"store": "slow", "clones": "maybe", "frob": "1"}, Remove: []string{"token"}},
			want: map[string]string{
				"properties.store": "fixed at creation", "properties.clones": "not one of",
				"properties.frob": "no such property", "secrets.token": "required",
			},
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			r := newRoom(t)
			if c.used {
				r.use(t)
			}
			before, err := r.Get("fast")
			if err != nil {
				t.Fatal(err)
			}
			c.edit.Name = "fast"
			problems, err := r.ValidateEdit(t.Context(), c.edit)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, problems, c.want)
			after, err := r.Get("fast")
			if err != nil || !cmp.Equal(before.Props, after.Props) || !cmp.Equal(before.Secrets, after.Secrets) {
				t.Errorf("the device is %v, %v; want it as before", after, err)
			}
			if refused := r.update(t, c.edit) != nil; refused != (len(c.want) > 0) {
				t.Errorf("Update refuses = %v, but %d problems were foretold", refused, len(c.want))
			}
		})
	}
}

func compare(t *testing.T, got []primitives.Problem, want map[string]string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("problems = %v, want %v", got, want)
	}
	for _, p := range got {
		if says, expected := want[p.Prop]; !expected || !strings.Contains(p.Message, says) {
			t.Errorf("problem %v, want %v", p, want)
		}
	}
}

// update does what was validated, and returns why it was refused.
func (r room) update(t *testing.T, e device.Edit) error {
	t.Helper()
	op, err := r.Update(t.Context(), e, device.Origin{})
	if err != nil {
		return err
	}
	if op, err = r.engine.Wait(t.Context(), op.ID); err != nil {
		t.Fatal(err)
	}
	if op.Failure == nil {
		return nil
	}
	return op.Failure.AsError()
}

func TestADeviceThatIsNotThereCannotBeEdited(t *testing.T) {
	r := newRoom(t)
	if _, err := r.ValidateEdit(t.Context(), device.Edit{Name: "slow"}); primitives.CodeOf(err) != primitives.CodeNotFound {
		t.Errorf("ValidateEdit = %v, want not found", err)
	}
}

func TestANewDeviceIsValidatedWithItsName(t *testing.T) {
	r := newRoom(t)
	problems, err := r.Validate(t.Context(), device.Spec{Name: "fast", Driver: mem.Name, Props: primitives.Props{"store": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	compare(t, problems, map[string]string{"name": "configured already", "secrets.token": "required"})
}
