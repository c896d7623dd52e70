// SPDX-License-Identifier: Apache-2.0

package hypervisor_test

import (
	"errors"
	"testing"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// Cases: S87, C3.10
func TestDiskIDsFitEverySerial(t *testing.T) {
	for id, ok := range map[hypervisor.DiskID]bool{
		"a": true, "d-0123456789abcdef01": true, "0": true,
		"": false, "d-0123456789abcdef012": false, "Upper": false, "a_b": false, "a b": false, "ä": false, "a\n": false,
	} {
		if err := hypervisor.CheckDiskID(id); (err == nil) != ok || err != nil && !errors.Is(err, primitives.CodeInvalid) {
			t.Errorf("CheckDiskID(%q) = %v, want ok %v", id, err, ok)
		}
	}
}

func TestASourceShowsItsMappingAndNoOther(t *testing.T) {
	file := func(path string, format primitives.Format) primitives.Mapping {
		return primitives.Mapping{Form: primitives.FormFile, File: &primitives.FileMap{Path: path, Format: format}}
	}
	network := func(n primitives.NetworkMap) primitives.Mapping {
		return primitives.Mapping{Form: primitives.FormNetwork, Network: &n}
	}
	nbd := primitives.NetworkMap{Protocol: "nbd", Export: "e", Socket: "/s"}
	for name, c := range map[string]struct {
		s    hypervisor.Source
		m    primitives.Mapping
		want bool
	}{
		"the file":                 {hypervisor.Source{Form: primitives.FormFile, Path: "/a", Format: "raw"}, file("/a", "raw"), true},
		"another file":             {hypervisor.Source{Form: primitives.FormFile, Path: "/a", Format: "raw"}, file("/b", "raw"), false},
		"the file as another kind": {hypervisor.Source{Form: primitives.FormFile, Path: "/a", Format: "qcow2"}, file("/a", "raw"), false},
		"a path of another form":   {hypervisor.Source{Form: primitives.FormBlock, Path: "/a", Format: "raw"}, file("/a", "raw"), false},
		"the block device": {
			hypervisor.Source{Form: primitives.FormBlock, Path: "/dev/a", Format: "raw"},
			primitives.Mapping{Form: primitives.FormBlock, Block: &primitives.BlockMap{Path: "/dev/a"}},
			true,
		},
		"a block device with a format in it": {
			hypervisor.Source{Form: primitives.FormBlock, Path: "/dev/a", Format: "qcow2"},
			primitives.Mapping{Form: primitives.FormBlock, Block: &primitives.BlockMap{Path: "/dev/a"}},
			false,
		},
		"the export":     {hypervisor.Source{Form: primitives.FormNetwork, Network: &nbd}, network(nbd), true},
		"another export": {hypervisor.Source{Form: primitives.FormNetwork, Network: &nbd}, network(primitives.NetworkMap{Protocol: "nbd", Export: "f", Socket: "/s"}), false},
		"an empty drive": {hypervisor.Source{}, file("/a", "raw"), false},
	} {
		if got := c.s.Shows(c.m); got != c.want {
			t.Errorf("%s: Shows = %v, want %v", name, got, c.want)
		}
	}
}
