// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"testing"

	"github.com/tenon-storage/tenon/agent/attach"
	"github.com/tenon-storage/tenon/agent/volume"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/primitives"
)

// The hypervisor's contract names disks by tenon's ID, which an adopted disk
// lacks. It is listed with its volume, and a detach says what to do instead.
func TestAnAdoptedDiskIsListedAndItsDetachSaysWhatToDo(t *testing.T) {
	h := open(t)
	h.addDir("files")
	h.writeImage(7)
	h.w.host.AddForeign(h.w.domain, "vda", hypervisor.Source{Form: primitives.FormFile, Path: image(h), Format: primitives.FormatRaw}, primitives.ReadWrite)
	h.run(volume.KindImport, volume.ImportArgs{URI: uri("files/old"), Path: image(h), Format: primitives.FormatRaw})
	disks, err := h.disks.Disks(t.Context(), "guest")
	if err != nil || len(disks) != 1 || disks[0].URI != uri("files/old") || disks[0].Target != "vda" {
		t.Fatalf("Disks = %+v, %v; want vda with its volume", disks, err)
	}
	for _, name := range []attach.DiskName{"vda", "files/old"} {
		wants(t, h.try(attach.KindDetach, attach.DetachArgs{Domain: "guest", Disk: name}), primitives.CodeUnsupported, "vda", "adopted")
		wants(t, h.try(attach.KindResize, attach.ResizeArgs{Domain: "guest", Disk: name, Size: 1 << 30}), primitives.CodeUnsupported, "vda", "adopted")
	}
	h.w.host.RemoveDisk(h.w.domain, "vda") // what the answer says to do
	h.reconcile()
	if h.uses() != 0 {
		t.Errorf("%d uses are left of a disk that is gone", h.uses())
	}
}
