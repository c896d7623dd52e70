// SPDX-License-Identifier: Apache-2.0

package rpc_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/fake"
)

// attached makes volumes of fast and gives them to web01, beside a device slow.
func attached(w *world, volumes ...string) (tenonv1.DiskServiceClient, []*tenonv1.Disk) {
	w.Helper()
	w.device("fast")
	w.device("slow")
	client := tenonv1.NewDiskServiceClient(w.conn)
	var disks []*tenonv1.Disk
	for _, v := range volumes {
		w.volume(v, 4<<20)
		disks = append(disks, w.done(client.AttachDisk(w.Context(), &tenonv1.AttachDiskRequest{Uri: v, Domain: "web01"})).GetDisk())
	}
	return client, disks
}

// Cases: E123
func TestAMovedDiskIsTheSameDiskElsewhere(t *testing.T) {
	w := newWorld(t)
	client, disks := attached(w, "fast/v")
	before := time.Now()
	request := &tenonv1.MoveDiskRequest{RequestId: "m", Domain: "web01", Disk: disks[0].GetId(), To: "slow", Keep: durationpb.New(time.Hour)}
	op := w.done(client.MoveDisk(t.Context(), request))
	if got := op.GetDiskMove(); len(got.GetDisks()) != 1 || got.GetDomain() != "web01" {
		t.Fatalf("result = %v, want one disk of web01", got)
	}
	moved := op.GetDiskMove().GetDisks()[0]
	if !moved.GetMoved() || moved.GetFrom() != "tenon://fast/v" || moved.GetTo() != "tenon://slow/v" || moved.GetCopiedBytes() != 4<<20 {
		t.Errorf("moved = %v, want fast/v moved to slow/v", moved)
	}
	if left := moved.GetTombstone(); left.GetWas() != "tenon://fast/v" || left.GetExpireTime().AsTime().Before(before.Add(time.Hour)) {
		t.Errorf("tombstone = %v, want fast/v kept for an hour", left)
	}
	list, err := client.ListDisks(t.Context(), &tenonv1.ListDisksRequest{Domain: "web01"})
	if err != nil || len(list.GetDisks()) != 1 {
		t.Fatalf("ListDisks = %v, %v; want one disk", list, err)
	}
	want := disks[0]
	want.Uri, want.Source = "tenon://slow/v", list.GetDisks()[0].GetSource()
	if diff := cmp.Diff(want, list.GetDisks()[0], protocmp.Transform()); diff != "" {
		t.Errorf("the disk changed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, moved.GetDisk(), protocmp.Transform()); diff != "" {
		t.Errorf("the disk of the result (-want +got):\n%s", diff)
	}
	again := w.done(client.MoveDisk(t.Context(), request))
	if diff := cmp.Diff(op, again, protocmp.Transform(), protocmp.IgnoreFields(op, "progress")); diff != "" {
		t.Errorf("the repeat is another operation (-first +again):\n%s", diff)
	}
}

// Cases: E125
func TestAMoveOfWhichOneDiskFailsTellsOfBoth(t *testing.T) {
	w := newWorld(t)
	client, disks := attached(w, "fast/a", "fast/b")
	w.host.Intercept(func(call string, at fake.Point) error {
		if call == "FinishMove" && at == fake.Before {
			w.host.FailMove(w.domain, hypervisor.DiskID(disks[0].GetId()), "No space left on device")
		}
		return nil
	})
	resp, err := client.MoveDisk(t.Context(), &tenonv1.MoveDiskRequest{
		Domain: "web01", Disk: disks[0].GetTarget(), To: "slow", Also: []*tenonv1.DiskDestination{{Disk: "fast/b", To: "slow/c"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	op := w.end(resp.GetOperation())
	if f := op.GetFailure(); f.GetCode() != tenonv1.ErrorCode_ERROR_CODE_NO_SPACE {
		t.Errorf("failure = %v, want no space", f)
	}
	got := op.GetDiskMove().GetDisks()
	if len(got) != 2 || got[0].GetMoved() || got[0].GetFailure() == "" || !got[1].GetMoved() {
		t.Fatalf("disks = %v, want the first on its source and the second moved", got)
	}
	if was := got[0].GetTombstone().GetWas(); was != "tenon://slow/a" {
		t.Errorf("the tombstone of the disk that stayed was %s, want its copy", was)
	}
	if was := got[1].GetTombstone().GetWas(); was != "tenon://fast/b" {
		t.Errorf("the tombstone of the disk that moved was %s, want its source", was)
	}
	for i, uri := range []string{"tenon://fast/a", "tenon://slow/c"} {
		if got[i].GetDisk().GetUri() != uri {
			t.Errorf("disk %d is on %s, want %s", i, got[i].GetDisk().GetUri(), uri)
		}
	}
}
