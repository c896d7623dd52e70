// SPDX-License-Identifier: Apache-2.0

package storage_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/mem"
)

func called(name string) primitives.Driver {
	return broken{Driver: mem.New(), info: func(i primitives.DriverInfo) primitives.DriverInfo { i.Name = name; return i }}
}

func TestTableRefusesWhatIsAmbiguous(t *testing.T) {
	newer := broken{Driver: mem.New(), info: func(i primitives.DriverInfo) primitives.DriverInfo {
		i.APIMin, i.APIMax = primitives.APIVersion+1, primitives.APIVersion+2
		return i
	}}
	for name, tt := range map[string]struct {
		drivers []primitives.Driver
		says    string
	}{
		"two of one name":     {[]primitives.Driver{called("a"), called("b"), called("a")}, `"a" is in the table twice`},
		"one without a name":  {[]primitives.Driver{called("")}, "needs a name"},
		"none at all":         {[]primitives.Driver{nil}, "is nil"},
		"of another contract": {[]primitives.Driver{newer}, "versions 2 to 3"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := storage.NewTable(tt.drivers...); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("NewTable = %v, want an error that says %q", err, tt.says)
			}
		})
	}
}

func TestTableKnowsItsDriversAndNoOther(t *testing.T) {
	table, err := storage.NewTable(called("rbd"), called("dir"))
	if err != nil {
		t.Fatal(err)
	}
	if got := table.Names(); !slices.Equal(got, []string{"dir", "rbd"}) {
		t.Errorf("Names = %v, want dir and rbd", got)
	}
	if d, err := table.Get("dir"); err != nil || d.Info().Name != "dir" {
		t.Errorf("Get(dir) = %v, %v", d, err)
	}
	_, err = table.Get("drr")
	wantCode(t, "Get of an unknown driver", err, primitives.CodeInvalid)
	if !strings.Contains(err.Error(), `did you mean "dir"?`) {
		t.Errorf("Get = %v, want a hint", err)
	}
}
