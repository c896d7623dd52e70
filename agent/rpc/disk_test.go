// SPDX-License-Identifier: Apache-2.0

package rpc_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// A client that missed the answer asks again, when the disk has long been gone
// or its target is another disk's.
func TestARepeatedDetachIsTheSameOperation(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	w.volume("fast/v", 4<<20)
	w.volume("fast/other", 4<<20)
	disks := tenonv1.NewDiskServiceClient(w.conn)
	for sentence, name := range map[string]func(*tenonv1.Disk) string{
		"its ID":               (*tenonv1.Disk).GetId,
		"its target":           (*tenonv1.Disk).GetTarget,
		"its volume's URI":     (*tenonv1.Disk).GetUri,
		"its volume, in short": func(*tenonv1.Disk) string { return "fast/v" },
	} {
		t.Run(sentence, func(t *testing.T) {
			disk := w.done(disks.AttachDisk(t.Context(), &tenonv1.AttachDiskRequest{Uri: "fast/v", Domain: "web01"})).GetDisk()
			grow := &tenonv1.ResizeDiskRequest{RequestId: "grow by " + sentence, Domain: "web01", Disk: name(disk), SizeBytes: 8 << 20}
			grown := w.done(disks.ResizeDisk(t.Context(), grow))
			request := &tenonv1.DetachDiskRequest{RequestId: "detach by " + sentence, Domain: "web01", Disk: name(disk)}
			first := w.done(disks.DetachDisk(t.Context(), request))
			other := w.done(disks.AttachDisk(t.Context(), &tenonv1.AttachDiskRequest{Uri: "fast/other", Domain: "web01"})).GetDisk()
			if other.GetTarget() != disk.GetTarget() {
				t.Fatalf("the next disk is %s, want %s again", other.GetTarget(), disk.GetTarget())
			}
			again := w.done(disks.DetachDisk(t.Context(), request))
			if diff := cmp.Diff(first, again, protocmp.Transform()); diff != "" {
				t.Errorf("the repeat is another operation (-first +again):\n%s", diff)
			}
			if regrown := w.done(disks.ResizeDisk(t.Context(), grow)); !cmp.Equal(grown, regrown, protocmp.Transform()) {
				t.Errorf("the repeated resize = %v, want %v", regrown, grown)
			}
			if left := w.host.Disks(w.domain); len(left) != 1 || string(left[0].ID) != other.GetId() {
				t.Errorf("disks after the repeats = %v, want %s untouched", left, other.GetId())
			}
			w.done(disks.DetachDisk(t.Context(), &tenonv1.DetachDiskRequest{Domain: "web01", Disk: other.GetId()}))
		})
	}
}
