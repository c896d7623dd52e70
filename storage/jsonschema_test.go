// SPDX-License-Identifier: Apache-2.0

package storage_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/storage"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestJSONSchemaIsStable(t *testing.T) {
	got, err := storage.JSONSchema(primitives.DriverInfo{Name: "zoo", Summary: "one property of every kind", Schema: zoo()})
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "zoo.schema.json")
	if *update {
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)+"\n"); d != "" {
		t.Errorf("JSONSchema differs from %s (-want +got):\n%s", golden, d)
	}
}
