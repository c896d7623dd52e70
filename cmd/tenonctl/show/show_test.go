// SPDX-License-Identifier: Apache-2.0

package show_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

var update = flag.Bool("update", false, "write the golden files anew")

var (
	noon  = timestamppb.New(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))
	later = timestamppb.New(time.Date(2026, 11, 22, 12, 0, 3, 250e6, time.UTC))
	style = show.Style{Zone: time.FixedZone("CET", 3600)}
)

var caps = &tenonv1.Capabilities{
	Manageable: true, Map: true, Snapshot: true, SnapshotLive: tenonv1.LiveSnapshot_LIVE_SNAPSHOT_REMAP, SnapshotGroup: true,
	Revert: tenonv1.RevertPolicy_REVERT_POLICY_LATEST_ONLY, DeleteWithSnapshots: tenonv1.DeletePolicy_DELETE_POLICY_REFUSED,
	Resize: true, ResizeOnline: true, ThinProvisioned: true, Delta: true, Import: true,
	Formats: []string{"qcow2", "raw"}, Forms: []string{"file", "network"}, Erase: []string{"none", "discard", "zero"},
}

var vm1 = &tenonv1.Volume{
	Uri: "tenon://fast/vm1", Handle: "v-01", State: tenonv1.ObjectState_OBJECT_STATE_READY,
	SizeBytes: 20 << 30, UsedBytes: 1610612736, Format: "qcow2", Generation: 7, Dependents: 1, CreateTime: noon,
	Properties: map[string]string{"owner": "web team", "tier": "gold"}, Capabilities: caps,
}

var disk = &tenonv1.Disk{
	Id: "d-4f6k2m9p", Domain: "web01", DomainId: "6f2c0f3a-0000-4000-8000-000000000001", Uri: "tenon://fast/vm1",
	Target: "vdb", Serial: "d-4f6k2m9p", Bus: "virtio", Access: tenonv1.Access_ACCESS_READ_WRITE, Live: true, Config: true, SizeBytes: 20 << 30,
	Source: &tenonv1.DiskSource{Form: "file", Path: "/srv/fast/volumes/vm1", Format: "qcow2", BackingPaths: []string{"/srv/fast/volumes/base"}},
}

var domain = &tenonv1.Domain{
	Id: "6f2c0f3a-0000-4000-8000-000000000001", Name: "web01", State: tenonv1.DomainState_DOMAIN_STATE_RUNNING, Persistent: true, Adapter: "kvm",
	Capabilities: &tenonv1.DomainCapabilities{AttachLive: true, DetachLive: true, ResizeLive: true, Freeze: true, Switch: true, FreeSlots: 12, Accepts: []string{"block/raw", "file/raw", "file/qcow2", "network/nbd"}},
}

func operation(kind, subject string, edit func(*tenonv1.Operation)) *tenonv1.Operation {
	op := &tenonv1.Operation{
		Id: "019ab1c2d3e4-k5l6m7n8op", RequestId: "ctl-1", Kind: kind, Subject: subject, Caller: "uid=0/pid=4711",
		State: tenonv1.OperationState_OPERATION_STATE_SUCCEEDED, CreateTime: noon, FinishTime: later,
	}
	if edit != nil {
		edit(op)
	}
	return op
}

var copying = operation("transfer.copy", "fast/vm1@nightly", func(op *tenonv1.Operation) {
	op.State, op.FinishTime, op.Step = tenonv1.OperationState_OPERATION_STATE_RUNNING, nil, "stream"
	op.Progress = &tenonv1.Progress{Done: 5 << 30, Total: 20 << 30}
})

var refused = operation("volume.delink", "fast/vm1", func(op *tenonv1.Operation) {
	op.State = tenonv1.OperationState_OPERATION_STATE_FAILED
	op.Failure = &tenonv1.Failure{
		Code: tenonv1.ErrorCode_ERROR_CODE_DEPENDENTS, Message: "delink fast/vm1: has dependents", Uri: "tenon://fast/vm1",
		Try:      "delink the snapshots first",
		Blockers: []*tenonv1.Blocker{{Kind: "snapshot", Name: "fast/vm1@a"}, {Kind: "snapshot", Name: "fast/vm1@b"}},
	}
})

func succeeded(kind, subject string, result func(*tenonv1.Operation)) string {
	return show.Outcome(operation(kind, subject, result))
}

// golden holds what each text looks like; testdata/NAME.golden is the promise.
var golden = map[string]func() string{
	"volumes": func() string {
		return style.Volumes([]*tenonv1.Volume{vm1, {
			Uri: "tenon://fast/zürich", State: tenonv1.ObjectState_OBJECT_STATE_INCOMPLETE, SizeBytes: 512, UsedBytes: -1, Format: "raw",
		}})
	},
	"volume":    func() string { return style.Volume(vm1) },
	"snapshots": func() string { return style.Snapshots([]*tenonv1.Snapshot{nightly}) },
	"snapshot":  func() string { return style.Snapshot(nightly) },
	"tombstones": func() string {
		return style.Tombstones([]*tenonv1.Tombstone{
			{Device: "fast", Id: "t-01", Was: "tenon://fast/old", SizeBytes: 1 << 30, UsedBytes: -1, DelinkTime: noon},
			{Device: "fast", Id: "t-02", Was: "tenon://fast/vm1@weekly", SizeBytes: 20 << 30, UsedBytes: 4096, DelinkTime: noon, ExpireTime: later},
		})
	},
	"devices": func() string {
		return style.Devices([]*tenonv1.Device{fast, {
			Name: "slow", Driver: "dir", Health: tenonv1.Health_HEALTH_UNREACHABLE, HealthNote: "/srv/slow is not there",
		}})
	},
	"device": func() string { return style.Device(fast) },
	"checks": func() string {
		return show.Checks([]*tenonv1.DeviceCheck{{Name: "open", Ok: true, Detail: "in 3ms"}, {Name: "describe", Detail: "unavailable: no answer"}})
	},
	"driver": func() string { return show.Driver(driver) },
	"drivers": func() string {
		return show.Drivers([]*tenonv1.Driver{driver, {Name: "mem", Version: "1", Summary: "memory"}})
	},
	"host": func() string {
		return style.Host(&tenonv1.Host{
			Id: "b0a1", Name: "node7", Kernel: "6.1.0-28-amd64", Version: "0.1.0", Pid: 812, StartTime: noon, Drivers: 2, Devices: 3, DevicesHealthy: 2, OperationsRunning: 1,
			Hypervisors: []*tenonv1.Hypervisor{{Name: "kvm", Hypervisor: "QEMU 7.2.19", Library: "libvirt 9.0.0", Connected: true, Accepts: []string{"block/raw", "file/qcow2"}}, {Name: "xen", Note: "no xenstore"}},
		})
	},
	"domains": func() string {
		return show.Domains([]*tenonv1.Domain{domain, {Name: "db", Id: "x", State: tenonv1.DomainState_DOMAIN_STATE_PAUSED, Reason: "ioerror"}})
	},
	"domain": func() string {
		return show.Domain(domain, []*tenonv1.Disk{disk, {Domain: "web01", Target: "vda", Bus: "virtio", Access: tenonv1.Access_ACCESS_READ_WRITE, Live: true}})
	},
	"disk":           func() string { return show.Disk(disk) },
	"operations":     func() string { return style.Operations([]*tenonv1.Operation{copying, refused}, later.AsTime()) },
	"operation":      func() string { return style.Operation(copying, later.AsTime()) },
	"operation-bad":  func() string { return style.Operation(refused, later.AsTime()) },
	"operation-line": func() string { return style.OperationLine(copying) + style.OperationLine(refused) },
	"outcomes":       outcomes,
	"failure-problems": func() string {
		return show.Failure(&tenonv1.Failure{Message: "invalid", Problems: []*tenonv1.Problem{
			{Field: "properties.path", Message: "must be absolute"}, {Field: "properties.reserve", Message: "ignored", Warning: true},
		}})
	},
	"failure-problem": func() string {
		return show.Failure(&tenonv1.Failure{Message: "invalid", Problems: []*tenonv1.Problem{{Field: "size", Message: "0: expected more"}}, Try: "give\na size"})
	},
	"failure-blocker": func() string {
		return show.Failure(&tenonv1.Failure{Message: "detach: in use", Blockers: []*tenonv1.Blocker{{Kind: "domain", Name: "web01"}}})
	},
	"failure-blockers": func() string { return show.Failure(refused.GetFailure()) },
	"json":             func() string { return must(show.JSON(vm1)) },
	"json-line":        func() string { return must(show.JSONLine(refused)) },
	"yaml":             func() string { return must(show.YAML(copying)) },
}

var nightly = &tenonv1.Snapshot{
	Uri: "tenon://fast/vm1@nightly", Handle: "s-09", State: tenonv1.ObjectState_OBJECT_STATE_READY, SizeBytes: 20 << 30, UsedBytes: 0,
	Format: "qcow2", Generation: 6, Parent: "v-01", CreateTime: noon,
}

var fast = &tenonv1.Device{
	Name: "fast", Driver: "dir", Properties: map[string]string{"path": "/srv/fast"}, SecretNames: []string{"key"}, Health: tenonv1.Health_HEALTH_HEALTHY,
	Backend: "dir:7c1e", TotalBytes: 1 << 40, FreeBytes: 700 << 30, GranuleBytes: 4096, Capabilities: caps, ObserveTime: noon,
}

var driver = &tenonv1.Driver{
	Name: "dir", Version: "1.0", Summary: "volumes as files of a directory", SchemaVersion: 1, ContractMin: 1, ContractMax: 1,
	Properties: []*tenonv1.PropertySpec{
		{Name: "path", Help: "the directory", Type: tenonv1.PropertyType_PROPERTY_TYPE_STRING, Required: true, Scopes: []tenonv1.PropertyScope{tenonv1.PropertyScope_PROPERTY_SCOPE_DEVICE}, Mutability: tenonv1.Mutability_MUTABILITY_IMMUTABLE},
		{Name: "format", Help: "the format of new volumes", Type: tenonv1.PropertyType_PROPERTY_TYPE_ENUM, EnumValues: []string{"raw", "qcow2"}, DefaultValue: "raw", Scopes: []tenonv1.PropertyScope{tenonv1.PropertyScope_PROPERTY_SCOPE_DEVICE, tenonv1.PropertyScope_PROPERTY_SCOPE_VOLUME}, Mutability: tenonv1.Mutability_MUTABILITY_ONLINE},
		{Name: "key", Help: "a key", Secret: true, Scopes: []tenonv1.PropertyScope{tenonv1.PropertyScope_PROPERTY_SCOPE_DEVICE}, Mutability: tenonv1.Mutability_MUTABILITY_OFFLINE},
	},
}

func outcomes() string {
	return succeeded("device.add", "fast", func(op *tenonv1.Operation) { op.Result = &tenonv1.Operation_Device{Device: fast} }) +
		succeeded("device.remove", "fast", nil) +
		succeeded("volume.create", "fast/vm1", func(op *tenonv1.Operation) { op.Result = &tenonv1.Operation_Volume{Volume: vm1} }) +
		succeeded("volume.import", "fast/vm1", func(op *tenonv1.Operation) {
			op.Result = &tenonv1.Operation_VolumeImport{VolumeImport: &tenonv1.VolumeImport{Volume: vm1, AdoptedDisks: []string{"web01/vdb"}}}
		}) +
		succeeded("volume.delink", "fast/vm1", func(op *tenonv1.Operation) {
			op.Result = &tenonv1.Operation_Tombstone{Tombstone: &tenonv1.Tombstone{Device: "fast", Id: "t-01", Was: "tenon://fast/vm1"}}
		}) +
		succeeded("volume.destroy", "fast t-01", nil) +
		succeeded("snapshot.create", "fast/vm1@nightly", func(op *tenonv1.Operation) {
			op.Result = &tenonv1.Operation_SnapshotSet{SnapshotSet: &tenonv1.SnapshotSet{
				Level: tenonv1.SnapshotLevel_SNAPSHOT_LEVEL_FROZEN, FrozenDuration: durationpb.New(142 * time.Millisecond),
				Groups: []*tenonv1.SnapshotGroup{{Device: "fast", Snapshots: []*tenonv1.Snapshot{nightly}}},
			}}
		}) +
		succeeded("disk.attach", "fast/vm1", func(op *tenonv1.Operation) { op.Result = &tenonv1.Operation_Disk{Disk: disk} }) +
		succeeded("disk.resize", "web01 vdb", func(op *tenonv1.Operation) { op.Result = &tenonv1.Operation_Disk{Disk: disk} }) +
		succeeded("disk.detach", "web01 vdb", nil) +
		succeeded("disk.move", "web01 vdb", func(op *tenonv1.Operation) {
			op.Result = &tenonv1.Operation_DiskMove{DiskMove: &tenonv1.DiskMove{Domain: "web01", Disks: []*tenonv1.MovedDisk{
				{
					Disk: disk, From: "tenon://fast/vm1", To: "tenon://slow/vm1", Moved: true, CopiedBytes: 20 << 30,
					Tombstone: &tenonv1.Tombstone{Device: "fast", Id: "t-02", Was: "tenon://fast/vm1"},
				},
				{Disk: disk, From: "tenon://fast/a", To: "tenon://slow/a", Moved: true, CopiedBytes: 1 << 20, Note: "fast/a stays as a volume: has dependents"},
				{
					Disk: disk, From: "tenon://fast/b", To: "tenon://slow/b", Failure: "no space:\nthe device is full",
					Tombstone: &tenonv1.Tombstone{Device: "slow", Id: "t-03", Was: "tenon://slow/b"},
				},
			}}}
		})
}

func must(text string, err error) string {
	if err != nil {
		return err.Error()
	}
	return text
}

func TestTextLooksAsPromised(t *testing.T) { looksAsPromised(t, golden) }

// looksAsPromised compares each text with testdata/NAME.golden.
func looksAsPromised(t *testing.T, golden map[string]func() string) {
	t.Helper()
	for name, print := range golden {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", name+".golden")
			got := print()
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", path, diff)
			}
		})
	}
}

func TestJSONHasEveryField(t *testing.T) {
	text, err := show.JSON(new(tenonv1.Tombstone))
	if err != nil {
		t.Fatal(err)
	}
	want := "{\n  \"device\": \"\",\n  \"id\": \"\",\n  \"was\": \"\",\n  \"size_bytes\": \"0\",\n  \"used_bytes\": \"0\"\n}\n"
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("JSON(empty tombstone) (-want +got):\n%s", diff)
	}
}

func TestSizeReadsBackWhatItPrints(t *testing.T) {
	for want, n := range map[string]int64{
		"0 B": 0, "512 B": 512, "1 KiB": 1024, "1.5 KiB": 1536, "20 GiB": 20 << 30, "1 MiB": 1<<20 - 1, "8 EiB": 1<<63 - 1, "-": -1,
	} {
		if got := show.Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
	for text, want := range map[string]int64{
		"0": 0, "4096": 4096, "20G": 20 << 30, "20Gi": 20 << 30, "20 GiB": 20 << 30, "512Mi": 512 << 20, "1.5k": 1536, "7E": 7 << 60, "12b": 12,
	} {
		got, err := show.ParseSize(text)
		if err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "G", "-1", "1.2.3", "20GB", "8E", "1.3", "0x10", "1e3", "20 G B", "٣"} {
		if got, err := show.ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", text, got)
		}
	}
}

// Every state that the API can name has words of its own.
func TestEveryEnumValueHasWords(t *testing.T) {
	seen := map[string]bool{}
	for n := range tenonv1.DomainState_name {
		line := show.Domains([]*tenonv1.Domain{{Name: "d", State: tenonv1.DomainState(n)}})
		if seen[line] {
			t.Errorf("Domains with state %d = %q, want another line than for other states", n, line)
		}
		seen[line] = true
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"20G", "1.5T", "512Mi", "x", "9223372036854775807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := show.ParseSize(s)
		if err == nil && n < 0 {
			t.Errorf("ParseSize(%q) = %d, want nothing below zero", s, n)
		}
	})
}
