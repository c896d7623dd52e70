// SPDX-License-Identifier: Apache-2.0

package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tenon-storage/tenon/api/failure"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/storage/mem"
)

const (
	failedInvalid   = tenonv1.ErrorCode_ERROR_CODE_INVALID
	failedNotFound  = tenonv1.ErrorCode_ERROR_CODE_NOT_FOUND
	failedExists    = tenonv1.ErrorCode_ERROR_CODE_EXISTS
	failedConflict  = tenonv1.ErrorCode_ERROR_CODE_CONFLICT
	failedInUse     = tenonv1.ErrorCode_ERROR_CODE_IN_USE
	failedCancelled = tenonv1.ErrorCode_ERROR_CODE_CANCELLED
)

// The main job, from the first device to the last destroy, through the socket.
func TestAVolumeLivesItsWholeLife(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	w.device("slow")
	ctx := t.Context()
	volumes, snapshots := tenonv1.NewVolumeServiceClient(w.conn), tenonv1.NewSnapshotServiceClient(w.conn)
	disks := tenonv1.NewDiskServiceClient(w.conn)

	v := w.volume("fast/vm1", 8<<20)
	if v.GetUri() != "tenon://fast/vm1" || v.GetSizeBytes() != 8<<20 {
		t.Fatalf("created %v, want tenon://fast/vm1 of 8 MiB", v)
	}
	content := pattern(8 << 20)
	w.write("fast/vm1", 0, content)
	if got := w.read(&tenonv1.ReadVolumeRequest{Uri: "fast/vm1"}); !bytes.Equal(got, content) {
		t.Fatal("read back other bytes than were written")
	}

	disk := w.done(disks.AttachDisk(ctx, &tenonv1.AttachDiskRequest{Uri: "tenon://fast/vm1", Domain: "web01"})).GetDisk()
	if disk.GetDomain() != "web01" || disk.GetUri() != "tenon://fast/vm1" || !disk.GetLive() || !disk.GetConfig() || disk.GetTarget() == "" {
		t.Errorf("attached %v, want a disk of web01, live and config", disk)
	}
	listed, err := disks.ListDisks(ctx, &tenonv1.ListDisksRequest{Domain: "web01"})
	if err != nil || len(listed.GetDisks()) != 1 || listed.GetDisks()[0].GetId() != disk.GetId() {
		t.Errorf("ListDisks = %v, %v, want the disk", listed, err)
	}
	busy := w.refused(volumes.DelinkVolume(ctx, &tenonv1.DelinkVolumeRequest{Uri: "fast/vm1"}))
	if busy.GetCode() != failedInUse || len(busy.GetBlockers()) != 1 || !strings.Contains(busy.GetBlockers()[0].GetName(), disk.GetId()) {
		t.Errorf("delink of an attached volume = %v, want in use by the disk", busy)
	}

	set := w.done(snapshots.CreateSnapshot(ctx, &tenonv1.CreateSnapshotRequest{Domain: "web01", Freeze: true, Name: "s1"})).GetSnapshotSet()
	if set.GetLevel() != tenonv1.SnapshotLevel_SNAPSHOT_LEVEL_FROZEN || set.GetFrozenDuration() == nil || len(set.GetGroups()) != 1 {
		t.Errorf("snapshot set = %v, want one group, frozen", set)
	}
	if w.host.Frozen(w.domain) {
		t.Error("the guest is still frozen")
	}

	resized := w.done(disks.ResizeDisk(ctx, &tenonv1.ResizeDiskRequest{Domain: "web01", Disk: disk.GetTarget(), SizeBytes: 16 << 20})).GetDisk()
	if resized.GetSizeBytes() != 16<<20 {
		t.Errorf("resized disk = %v, want 16 MiB", resized)
	}
	w.done(disks.DetachDisk(ctx, &tenonv1.DetachDiskRequest{Domain: "web01", Disk: "fast/vm1"}))

	w.done(volumes.CloneVolume(ctx, &tenonv1.CloneVolumeRequest{SourceUri: "fast/vm1@s1", DestinationUri: "fast/clone"}))
	w.done(tenonv1.NewTransferServiceClient(w.conn).Copy(ctx, &tenonv1.CopyRequest{SourceUri: "fast/vm1@s1", DestinationUri: "slow/copy"}))
	for _, uri := range []string{"fast/clone", "slow/copy", "fast/vm1@s1"} {
		if got := w.read(&tenonv1.ReadVolumeRequest{Uri: uri}); !bytes.Equal(got, content) {
			t.Errorf("%s holds %d other bytes than the snapshot", uri, len(got))
		}
	}
	w.write("fast/vm1", 0, pattern(1<<20))
	w.done(snapshots.RevertSnapshot(ctx, &tenonv1.RevertSnapshotRequest{Uri: "fast/vm1@s1"}))
	if got := w.read(&tenonv1.ReadVolumeRequest{Uri: "fast/vm1"}); !bytes.Equal(got, content) {
		t.Error("after the revert the volume holds other bytes than the snapshot")
	}

	tombstone := w.done(snapshots.DelinkSnapshot(ctx, &tenonv1.DelinkSnapshotRequest{Uri: "fast/vm1@s1"})).GetTombstone()
	w.done(snapshots.DestroySnapshot(ctx, &tenonv1.DestroySnapshotRequest{Device: "fast", TombstoneId: tombstone.GetId()}))
	tombstone = w.done(volumes.DelinkVolume(ctx, &tenonv1.DelinkVolumeRequest{Uri: "fast/vm1", Keep: durationpb.New(time.Hour)})).GetTombstone()
	if tombstone.GetWas() != "tenon://fast/vm1" || tombstone.GetExpireTime() == nil {
		t.Errorf("tombstone = %v, want one of fast/vm1 that expires", tombstone)
	}
	buried, err := volumes.ListTombstones(ctx, &tenonv1.ListTombstonesRequest{Device: "fast"})
	if err != nil || len(buried.GetTombstones()) != 1 || buried.GetTombstones()[0].GetId() != tombstone.GetId() {
		t.Errorf("ListTombstones = %v, %v, want the one", buried, err)
	}
	w.done(volumes.RelinkVolume(ctx, &tenonv1.RelinkVolumeRequest{Device: "fast", TombstoneId: tombstone.GetId(), Uri: "fast/again"}))
	if got := w.read(&tenonv1.ReadVolumeRequest{Uri: "fast/again"}); !bytes.Equal(got, content) {
		t.Error("the relinked volume holds other bytes than before")
	}
	tombstone = w.done(volumes.DelinkVolume(ctx, &tenonv1.DelinkVolumeRequest{Uri: "fast/again"})).GetTombstone()
	w.done(volumes.DestroyVolume(ctx, &tenonv1.DestroyVolumeRequest{Device: "fast", TombstoneId: tombstone.GetId(), Erase: tenonv1.Erase_ERASE_ZERO}))
	left, err := volumes.ListVolumes(ctx, &tenonv1.ListVolumesRequest{Device: "fast"})
	if err != nil || len(left.GetVolumes()) != 1 || left.GetVolumes()[0].GetUri() != "tenon://fast/clone" {
		t.Errorf("ListVolumes = %v, %v, want the clone alone", left, err)
	}
	w.done(tenonv1.NewDeviceServiceClient(w.conn).RemoveDevice(ctx, &tenonv1.RemoveDeviceRequest{Name: "fast"}))
}

// pattern depends on the position, with a hole of zeros in the middle.
func pattern(n int) []byte {
	data := make([]byte, n)
	random := rand.NewChaCha8([32]byte{byte(n >> 20)})
	_, _ = random.Read(data)
	clear(data[n/4 : n/2])
	return data
}

// write streams data into a volume.
func (w *world) write(uri string, offset int64, data []byte) {
	w.Helper()
	stream, err := tenonv1.NewVolumeServiceClient(w.conn).WriteVolume(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	err = stream.Send(&tenonv1.WriteVolumeRequest{Uri: uri, Offset: offset})
	const part = 1 << 19
	for i := 0; i < len(data) && err == nil; i += part {
		err = stream.Send(&tenonv1.WriteVolumeRequest{Offset: offset + int64(i), Data: data[i:min(i+part, len(data))]})
	}
	if err == nil {
		err = stream.Send(&tenonv1.WriteVolumeRequest{Commit: true})
	}
	if _, endErr := stream.CloseAndRecv(); endErr != nil {
		w.Fatal(errors.Join(err, endErr))
	}
}

// read collects a stream, checking that its runs follow each other.
func (w *world) read(r *tenonv1.ReadVolumeRequest) []byte {
	w.Helper()
	stream, err := tenonv1.NewVolumeServiceClient(w.conn).ReadVolume(w.Context(), r)
	if err != nil {
		w.Fatal(err)
	}
	var data []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return data
		}
		if err != nil {
			w.Fatal(err)
		}
		if m.GetOffset() != r.GetOffset()+int64(len(data)) {
			w.Fatalf("run begins at %d, want %d", m.GetOffset(), r.GetOffset()+int64(len(data)))
		}
		data = append(append(data, m.GetData()...), make([]byte, m.GetZeroLength())...)
	}
}

func TestARangeIsReadAndCutAtTheEnd(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	w.volume("fast/v", 4<<20)
	content := pattern(4 << 20)
	w.write("fast/v", 0, content)
	for _, c := range []struct{ offset, length, want int64 }{
		{0, 0, 4 << 20}, {1, 1, 1}, {1<<20 - 1, 2<<20 + 3, 2<<20 + 3}, {4<<20 - 5, 100, 5}, {4 << 20, 0, 0}, {4 << 20, 7, 0},
	} {
		got := w.read(&tenonv1.ReadVolumeRequest{Uri: "fast/v", Offset: c.offset, Length: c.length})
		if int64(len(got)) != c.want || !bytes.Equal(got, content[c.offset:c.offset+c.want]) {
			t.Errorf("read of %d bytes at %d = %d bytes, want %d, those written", c.length, c.offset, len(got), c.want)
		}
	}
	for _, r := range []*tenonv1.ReadVolumeRequest{{Uri: "fast/v", Offset: -1}, {Uri: "fast/v", Offset: 4<<20 + 1}, {Uri: "fast/v", Length: -1}, {Uri: "fast"}, {Uri: ""}} {
		stream, err := tenonv1.NewVolumeServiceClient(w.conn).ReadVolume(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); failure.Of(err).GetCode() != failedInvalid {
			t.Errorf("read %v = %v, want invalid", r, err)
		}
	}
}

func TestAWriteWithoutCommitIsNeverWhole(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	volumes := tenonv1.NewVolumeServiceClient(w.conn)
	for sentence, end := range map[string]func(grpc.ClientStreamingClient[tenonv1.WriteVolumeRequest, tenonv1.WriteVolumeResponse], context.CancelFunc) error{
		"the client closes": func(s grpc.ClientStreamingClient[tenonv1.WriteVolumeRequest, tenonv1.WriteVolumeResponse], _ context.CancelFunc) error {
			_, err := s.CloseAndRecv()
			return err
		},
		"the client dies": func(s grpc.ClientStreamingClient[tenonv1.WriteVolumeRequest, tenonv1.WriteVolumeResponse], cancel context.CancelFunc) error {
			cancel()
			return s.RecvMsg(new(tenonv1.WriteVolumeResponse))
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			uri := "fast/" + strings.ReplaceAll(sentence, " ", "-")
			w.volume(uri, 4<<20)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stream, err := volumes.WriteVolume(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&tenonv1.WriteVolumeRequest{Uri: uri, Data: pattern(1 << 20)}); err != nil {
				t.Fatal(err)
			}
			w.awaitIncomplete(uri) // the server has begun
			if err := end(stream, cancel); failure.Of(err).GetCode() != failedCancelled {
				t.Errorf("end of the stream = %v, want cancelled", err)
			}
			w.awaitIncomplete(uri)
		})
	}
}

// awaitIncomplete asks for a volume until it is incomplete: what a stream does
// has no event of its own.
func (w *world) awaitIncomplete(uri string) {
	w.Helper()
	for range 10_000 {
		resp, err := tenonv1.NewVolumeServiceClient(w.conn).GetVolume(w.Context(), &tenonv1.GetVolumeRequest{Uri: uri})
		if err != nil {
			w.Fatal(err)
		}
		if resp.GetVolume().GetState() == tenonv1.ObjectState_OBJECT_STATE_INCOMPLETE {
			return
		}
	}
	w.Fatalf("volume %s never became incomplete", uri)
}

func TestARepeatedRequestIsTheSameOperation(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	volumes := tenonv1.NewVolumeServiceClient(w.conn)
	request := &tenonv1.CreateVolumeRequest{RequestId: "once", Uri: "fast/v", SizeBytes: 1 << 20}
	first := w.done(volumes.CreateVolume(t.Context(), request))
	again := w.done(volumes.CreateVolume(t.Context(), request))
	if diff := cmp.Diff(first, again, protocmp.Transform()); diff != "" {
		t.Errorf("the repeat is another operation (-first +again):\n%s", diff)
	}
	if uid := fmt.Sprintf("uid=%d/pid=%d", os.Getuid(), os.Getpid()); first.GetCaller() != uid {
		t.Errorf("caller = %q, want %q", first.GetCaller(), uid)
	}
	request.SizeBytes = 2 << 20
	if f := w.refused(volumes.CreateVolume(t.Context(), request)); f.GetCode() != failedConflict {
		t.Errorf("the id with other arguments = %v, want conflict", f)
	}
	request.RequestId = "twice"
	if f := w.refused(volumes.CreateVolume(t.Context(), request)); f.GetCode() != failedExists {
		t.Errorf("the same name by another request = %v, want exists", f)
	}
}

func TestWrongArgumentsNameTheirField(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	ctx := t.Context()
	volumes, snapshots, disks := tenonv1.NewVolumeServiceClient(w.conn), tenonv1.NewSnapshotServiceClient(w.conn), tenonv1.NewDiskServiceClient(w.conn)
	devices, transfers, operations := tenonv1.NewDeviceServiceClient(w.conn), tenonv1.NewTransferServiceClient(w.conn), tenonv1.NewOperationServiceClient(w.conn)
	for field, call := range map[string]func() error{
		"uri": func() error {
			_, err := volumes.GetVolume(ctx, &tenonv1.GetVolumeRequest{Uri: "fast/../etc"})
			return err
		},
		"uri ": func() error {
			_, err := volumes.CreateVolume(ctx, &tenonv1.CreateVolumeRequest{Uri: "fast/v@s", SizeBytes: 1})
			return err
		},
		"uri  ": func() error {
			_, err := volumes.GetVolume(ctx, &tenonv1.GetVolumeRequest{Uri: "fast/" + strings.Repeat("x", 300)})
			return err
		},
		"uri   ": func() error {
			_, err := snapshots.GetSnapshot(ctx, &tenonv1.GetSnapshotRequest{Uri: "fast/v"})
			return err
		},
		"uri    ": func() error {
			_, err := volumes.GetVolume(ctx, &tenonv1.GetVolumeRequest{Uri: "fast/a\nb"})
			return err
		},
		"size": func() error {
			_, err := volumes.CreateVolume(ctx, &tenonv1.CreateVolumeRequest{Uri: "fast/v", SizeBytes: -1})
			return err
		},
		"source_uri": func() error {
			_, err := transfers.Copy(ctx, &tenonv1.CopyRequest{SourceUri: "fast", DestinationUri: "fast/x"})
			return err
		},
		"destination_uri": func() error {
			_, err := transfers.Copy(ctx, &tenonv1.CopyRequest{SourceUri: "fast/v", DestinationUri: "http://x/y"})
			return err
		},
		"volume_uris[1]": func() error {
			_, err := snapshots.CreateSnapshot(ctx, &tenonv1.CreateSnapshotRequest{VolumeUris: []string{"fast/v", ""}})
			return err
		},
		"disk": func() error { _, err := disks.DetachDisk(ctx, &tenonv1.DetachDiskRequest{Domain: "web01"}); return err },
		"timeout": func() error {
			_, err := disks.DetachDisk(ctx, &tenonv1.DetachDiskRequest{Domain: "web01", Disk: "vdb", Timeout: durationpb.New(-1)})
			return err
		},
		"domain": func() error { _, err := disks.AttachDisk(ctx, &tenonv1.AttachDiskRequest{Uri: "fast/v"}); return err },
		"page_size": func() error {
			_, err := volumes.ListVolumes(ctx, &tenonv1.ListVolumesRequest{Device: "fast", PageSize: -1})
			return err
		},
		"device": func() error {
			_, err := devices.AddDevice(ctx, &tenonv1.AddDeviceRequest{Name: "Fast", Driver: "mem"})
			return err
		},
		"driver": func() error {
			_, err := devices.AddDevice(ctx, &tenonv1.AddDeviceRequest{Name: "x", Driver: "nfs"})
			return err
		},
		"properties.store": func() error {
			_, err := devices.AddDevice(ctx, &tenonv1.AddDeviceRequest{Name: "x", Driver: "mem"})
			return err
		},
		"states": func() error {
			_, err := operations.ListOperations(ctx, &tenonv1.ListOperationsRequest{States: []tenonv1.OperationState{99}})
			return err
		},
		"request_id": func() error {
			_, err := volumes.CreateVolume(ctx, &tenonv1.CreateVolumeRequest{RequestId: "a\nb", Uri: "fast/v", SizeBytes: 1})
			return err
		},
	} {
		f := failure.Of(call())
		if f.GetCode() != failedInvalid || len(f.GetProblems()) == 0 || f.GetProblems()[0].GetField() != strings.TrimSpace(field) {
			t.Errorf("wrong %s = %v, want invalid with that field", field, f)
		}
	}
	listed, err := operations.ListOperations(ctx, &tenonv1.ListOperationsRequest{})
	if err != nil || len(listed.GetOperations()) != 1 {
		t.Errorf("operations = %v, %v, want the device's alone: wrong requests begin nothing", listed, err)
	}
}

func TestWhatIsNotThereIsNotFound(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	ctx := t.Context()
	for what, call := range map[string]func() error{
		"device": func() error {
			_, err := tenonv1.NewDeviceServiceClient(w.conn).GetDevice(ctx, &tenonv1.GetDeviceRequest{Name: "x"})
			return err
		},
		"driver": func() error {
			_, err := tenonv1.NewDriverServiceClient(w.conn).GetDriver(ctx, &tenonv1.GetDriverRequest{Name: "x"})
			return err
		},
		"schema": func() error {
			_, err := tenonv1.NewDriverServiceClient(w.conn).GetDriverSchema(ctx, &tenonv1.GetDriverSchemaRequest{Name: "x"})
			return err
		},
		"volume": func() error {
			_, err := tenonv1.NewVolumeServiceClient(w.conn).GetVolume(ctx, &tenonv1.GetVolumeRequest{Uri: "fast/x"})
			return err
		},
		"its device": func() error {
			_, err := tenonv1.NewVolumeServiceClient(w.conn).GetVolume(ctx, &tenonv1.GetVolumeRequest{Uri: "x/x"})
			return err
		},
		"snapshot": func() error {
			_, err := tenonv1.NewSnapshotServiceClient(w.conn).GetSnapshot(ctx, &tenonv1.GetSnapshotRequest{Uri: "fast/x@y"})
			return err
		},
		"domain": func() error {
			_, err := tenonv1.NewDomainServiceClient(w.conn).GetDomain(ctx, &tenonv1.GetDomainRequest{Domain: "x"})
			return err
		},
		"operation": func() error {
			_, err := tenonv1.NewOperationServiceClient(w.conn).GetOperation(ctx, &tenonv1.GetOperationRequest{Id: "x"})
			return err
		},
		"waited operation": func() error {
			_, err := tenonv1.NewOperationServiceClient(w.conn).WaitOperation(ctx, &tenonv1.WaitOperationRequest{Id: "x"})
			return err
		},
		"cancelled operation": func() error {
			_, err := tenonv1.NewOperationServiceClient(w.conn).CancelOperation(ctx, &tenonv1.CancelOperationRequest{Id: "x"})
			return err
		},
		"watched operation": func() error {
			s, err := tenonv1.NewOperationServiceClient(w.conn).WatchOperations(ctx, &tenonv1.WatchOperationsRequest{Id: "x"})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"tombstone": func() error {
			_, err := tenonv1.NewVolumeServiceClient(w.conn).DestroyVolume(ctx, &tenonv1.DestroyVolumeRequest{Device: "fast", TombstoneId: "x"})
			return err
		},
	} {
		if err := call(); failure.Of(err).GetCode() != failedNotFound {
			t.Errorf("unknown %s = %v, want not found", what, err)
		}
	}
}

func TestListingsComeInPagesWithoutGapsOrRepeats(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	w.device("slow")
	w.device("warm")
	for i := range 7 {
		w.volume(fmt.Sprintf("fast/v%d", i), 4096)
	}
	volumes := tenonv1.NewVolumeServiceClient(w.conn)
	var names []string
	for token := ""; ; {
		page, err := volumes.ListVolumes(t.Context(), &tenonv1.ListVolumesRequest{Device: "fast", PageSize: 3, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range page.GetVolumes() {
			names = append(names, v.GetUri())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if got := strings.Join(names, " "); got != "tenon://fast/v0 tenon://fast/v1 tenon://fast/v2 tenon://fast/v3 tenon://fast/v4 tenon://fast/v5 tenon://fast/v6" {
		t.Errorf("volumes in pages = %s, want each once, in order", got)
	}
	devices := tenonv1.NewDeviceServiceClient(w.conn)
	first, err := devices.ListDevices(t.Context(), &tenonv1.ListDevicesRequest{PageSize: 2})
	if err != nil || len(first.GetDevices()) != 2 || first.GetNextPageToken() == "" {
		t.Fatalf("first page = %v, %v, want two devices and a token", first, err)
	}
	rest, err := devices.ListDevices(t.Context(), &tenonv1.ListDevicesRequest{PageSize: 2, PageToken: first.GetNextPageToken()})
	if err != nil || len(rest.GetDevices()) != 1 || rest.GetDevices()[0].GetName() != "warm" || rest.GetNextPageToken() != "" {
		t.Errorf("second page = %v, %v, want warm and no token", rest, err)
	}
	operations := tenonv1.NewOperationServiceClient(w.conn)
	newest, err := operations.ListOperations(t.Context(), &tenonv1.ListOperationsRequest{PageSize: 1, Kind: "volume"})
	if err != nil || len(newest.GetOperations()) != 1 || newest.GetOperations()[0].GetSubject() != "fast/v6" {
		t.Errorf("newest operation on volumes = %v, %v, want the one on v6", newest, err)
	}
	older, err := operations.ListOperations(t.Context(), &tenonv1.ListOperationsRequest{PageToken: newest.GetNextPageToken(), Kind: "volume.create"})
	if err != nil || len(older.GetOperations()) != 6 || older.GetOperations()[5].GetSubject() != "fast/v0" {
		t.Errorf("older operations = %v, %v, want six, newest first", older, err)
	}
}

func TestAnOperationIsWatchedWaitedForAndCancelled(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	release := w.driver.Fault("fast", mem.Fault{Op: "commit", Dead: true})
	defer release()
	operations := tenonv1.NewOperationServiceClient(w.conn)
	resp, err := tenonv1.NewVolumeServiceClient(w.conn).CreateVolume(t.Context(), &tenonv1.CreateVolumeRequest{Uri: "fast/v", SizeBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	id := resp.GetOperation().GetId()
	waited, err := operations.WaitOperation(t.Context(), &tenonv1.WaitOperationRequest{Id: id, Timeout: durationpb.New(time.Millisecond)})
	if err != nil || waited.GetOperation().GetState() != tenonv1.OperationState_OPERATION_STATE_RUNNING {
		t.Errorf("WaitOperation for a millisecond = %v, %v, want it running still", waited, err)
	}
	watch, err := operations.WatchOperations(t.Context(), &tenonv1.WatchOperationsRequest{Id: id})
	if err != nil {
		t.Fatal(err)
	}
	seen, err := watch.Recv()
	if err != nil || seen.GetOperation().GetState() != tenonv1.OperationState_OPERATION_STATE_RUNNING {
		t.Fatalf("first change = %v, %v, want it running", seen, err)
	}
	cancelled, err := operations.CancelOperation(t.Context(), &tenonv1.CancelOperationRequest{Id: id})
	if err != nil || !cancelled.GetOperation().GetCancelAsked() {
		t.Fatalf("CancelOperation = %v, %v, want it asked for", cancelled, err)
	}
	var last *tenonv1.Operation
	for {
		m, err := watch.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		last = m.GetOperation()
	}
	if last.GetState() != tenonv1.OperationState_OPERATION_STATE_CANCELLED || last.GetFailure().GetCode() != failedCancelled {
		t.Errorf("last change = %v, want cancelled", last)
	}
	if again, err := operations.CancelOperation(t.Context(), &tenonv1.CancelOperationRequest{Id: id}); err != nil || again.GetOperation().GetState() != last.GetState() {
		t.Errorf("CancelOperation again = %v, %v, want the operation unchanged", again, err)
	}
}

func TestWatchersAreSentAwayWhenTenondStopsAndFindTheOperationAgain(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	release := w.driver.Fault("fast", mem.Fault{Op: "commit", Dead: true})
	resp, err := tenonv1.NewVolumeServiceClient(w.conn).CreateVolume(t.Context(), &tenonv1.CreateVolumeRequest{Uri: "fast/v", SizeBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	operations := tenonv1.NewOperationServiceClient(w.conn)
	watch, err := operations.WatchOperations(t.Context(), &tenonv1.WatchOperationsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() { defer close(stopped); w.stop() }()
	for err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("watch of a tenond that stops = %v, want unavailable", err)
	}
	release()
	<-stopped
	w.boot()
	again, err := operations.WaitOperation(t.Context(), &tenonv1.WaitOperationRequest{Id: resp.GetOperation().GetId()}, grpc.WaitForReady(true))
	if err != nil || again.GetOperation().GetState() != tenonv1.OperationState_OPERATION_STATE_SUCCEEDED {
		t.Errorf("the operation after the restart = %v, %v, want success", again, err)
	}
}

// Cases: S97, T97
func TestSecretsAreNeitherLoggedNorShown(t *testing.T) {
	w := newWorld(t)
	const secret = "correct-horse-battery"
	devices := tenonv1.NewDeviceServiceClient(w.conn)
	op := w.done(devices.AddDevice(t.Context(), &tenonv1.AddDeviceRequest{
		Name: "locked", Driver: "mem", Properties: map[string]string{"store": "locked"}, Secrets: map[string][]byte{"token": []byte(secret)},
	}))
	shown, err := devices.GetDevice(t.Context(), &tenonv1.GetDeviceRequest{Name: "locked"})
	if err != nil || !cmp.Equal(shown.GetDevice().GetSecretNames(), []string{"token"}) {
		t.Errorf("device = %v, %v, want the name of its secret", shown, err)
	}
	w.stop()
	for where, text := range map[string]string{"log": w.log.String(), "operation": op.String(), "device": shown.String()} {
		if strings.Contains(text, secret) || strings.Contains(text, "Y29ycmVjdC1ob3JzZS") {
			t.Errorf("the %s shows the secret: %s", where, text)
		}
	}
	if !strings.Contains(w.log.String(), "method=DeviceService/AddDevice") {
		t.Errorf("log = %s, want a line for the call", w.log.String())
	}
}

func TestADeviceThatIsAwayIsAnEntryThatSaysSo(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	w.device("slow")
	w.driver.Crash("slow")
	defer w.driver.Fault("slow", mem.Fault{Op: "open", Err: errors.New("the cable is out")})()
	devices := tenonv1.NewDeviceServiceClient(w.conn)
	checked, err := devices.CheckDevice(t.Context(), &tenonv1.CheckDeviceRequest{Name: "slow"})
	if err != nil || len(checked.GetChecks()) == 0 {
		t.Fatalf("CheckDevice = %v, %v, want an answer", checked, err)
	}
	listed, err := devices.ListDevices(t.Context(), &tenonv1.ListDevicesRequest{})
	if err != nil || len(listed.GetDevices()) != 2 {
		t.Fatalf("ListDevices = %v, %v, want both", listed, err)
	}
	if fast := listed.GetDevices()[0]; fast.GetHealth() != tenonv1.Health_HEALTH_HEALTHY || fast.GetCapabilities() == nil {
		t.Errorf("fast = %v, want it healthy with capabilities", fast)
	}
	w.volume("fast/v", 4096) // others go on
}

func TestHealthAndReflectionAnswer(t *testing.T) {
	w := newWorld(t)
	for _, service := range []string{"", "tenon.v1.VolumeService", "tenon.v1.OperationService"} {
		resp, err := healthpb.NewHealthClient(w.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil || resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health of %q = %v, %v, want serving", service, resp, err)
		}
	}
	stream, err := reflectpb.NewServerReflectionClient(w.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_ListServices{}})
	resp, recvErr := stream.Recv()
	if err != nil || recvErr != nil || !strings.Contains(resp.String(), "tenon.v1.DeviceService") {
		t.Errorf("reflection = %v, %v, want the services", resp, errors.Join(err, recvErr))
	}
}

func TestTheHostIsDescribed(t *testing.T) {
	w := newWorld(t)
	w.device("fast")
	resp, err := tenonv1.NewHostServiceClient(w.conn).GetHost(t.Context(), &tenonv1.GetHostRequest{})
	if err != nil {
		t.Fatal(err)
	}
	h := resp.GetHost()
	if h.GetId() == "" || h.GetBootId() != "boot-1" || h.GetVersion() != "test" || h.GetDevices() != 1 || h.GetDevicesHealthy() != 1 ||
		h.GetDrivers() != 1 || len(h.GetHypervisors()) != 1 || !h.GetHypervisors()[0].GetConnected() || int(h.GetPid()) != os.Getpid() {
		t.Errorf("host = %v, want one device, one driver, one hypervisor that is connected", h)
	}
	domains, err := tenonv1.NewDomainServiceClient(w.conn).ListDomains(t.Context(), &tenonv1.ListDomainsRequest{})
	if err != nil || len(domains.GetDomains()) != 1 || domains.GetDomains()[0].GetName() != "web01" || domains.GetDomains()[0].GetState() != tenonv1.DomainState_DOMAIN_STATE_RUNNING {
		t.Errorf("domains = %v, %v, want web01 running", domains, err)
	}
}

func TestMessagesThatAreTooLargeAreRefused(t *testing.T) {
	w := newWorld(t)
	_, err := tenonv1.NewVolumeServiceClient(w.conn).GetVolume(t.Context(), &tenonv1.GetVolumeRequest{Uri: strings.Repeat("x", 5<<20)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a request of 5 MiB = %v, want resource exhausted", status.Code(err))
	}
}

func TestValidateTellsEveryProblemAndChangesNothing(t *testing.T) {
	w := newWorld(t)
	devices := tenonv1.NewDeviceServiceClient(w.conn)
	resp, err := devices.ValidateDevice(t.Context(), &tenonv1.ValidateDeviceRequest{
		Name: "x", Driver: "mem", Properties: map[string]string{"granule": "1000000000", "clones": "maybe", "frob": "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]bool{}
	for _, p := range resp.GetProblems() {
		fields[p.GetField()] = true
	}
	for _, want := range []string{"properties.store", "properties.granule", "properties.clones", "properties.frob"} {
		if !fields[want] {
			t.Errorf("problems = %v, want one of %s", resp.GetProblems(), want)
		}
	}
	listed, err := devices.ListDevices(t.Context(), &tenonv1.ListDevicesRequest{})
	if err != nil || len(listed.GetDevices()) != 0 {
		t.Errorf("ListDevices after a validation = %v, %v, want none", listed, err)
	}
	w.device("fast")
	resp, err = devices.ValidateDevice(t.Context(), &tenonv1.ValidateDeviceRequest{Name: "fast", Properties: map[string]string{"clones": "dependent"}})
	if err != nil || len(resp.GetProblems()) != 0 {
		t.Errorf("validation of an update = %v, %v, want no problem", resp, err)
	}
}
