// SPDX-License-Identifier: Apache-2.0

package rpc

import (
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/primitives"
)

// The API's enums begin with an unspecified value; some of ours do not.

func healthOf(h primitives.Health) tenonv1.Health { return tenonv1.Health(h + 1) }

func stateOf(s primitives.State) tenonv1.ObjectState { return tenonv1.ObjectState(s) }

func accessOf(a primitives.Access) tenonv1.Access { return tenonv1.Access(a) }

// eraseFrom reads the way to erase; unspecified is none.
func eraseFrom(e tenonv1.Erase) (primitives.Erase, error) {
	switch e {
	case tenonv1.Erase_ERASE_UNSPECIFIED, tenonv1.Erase_ERASE_NONE:
		return primitives.EraseNone, nil
	case tenonv1.Erase_ERASE_DISCARD:
		return primitives.EraseDiscard, nil
	case tenonv1.Erase_ERASE_ZERO:
		return primitives.EraseZero, nil
	}
	return 0, primitives.Invalid("erase", "%d is not a way to erase", e)
}

// at returns t as a message; the zero time is absent.
func at(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// during returns d as a message; no time is absent.
func during(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// durationFrom reads a duration that may be absent.
func durationFrom(field string, d *durationpb.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if err := d.CheckValid(); err != nil || d.AsDuration() < 0 {
		return 0, primitives.Invalid(field, "%v: expected a time of 0 or more", d.AsDuration())
	}
	return d.AsDuration(), nil
}

// uriFrom reads a URI of a field; the error names the field.
func uriFrom(field, text string) (primitives.URI, error) {
	if text == "" {
		return primitives.URI{}, primitives.Invalid(field, "it is empty; expected DEVICE/VOLUME or DEVICE/VOLUME@SNAPSHOT")
	}
	u, err := primitives.ParseURI(text)
	if err != nil {
		return primitives.URI{}, inField(field, err)
	}
	return u, nil
}

// inField makes the problems of a part those of the field that holds it.
func inField(field string, err error) error {
	e, ok := errors.AsType[*primitives.Error](err)
	if !ok {
		return err
	}
	moved := *e
	moved.Problems = slices.Clone(e.Problems)
	for i, p := range moved.Problems {
		moved.Problems[i].Prop, moved.Problems[i].Message = field, p.Prop+" "+p.Message
	}
	return &moved
}

// volumeFrom reads the URI of a volume.
func volumeFrom(field, text string) (primitives.URI, error) {
	u, err := uriFrom(field, text)
	if err == nil && !u.IsVolume() {
		return primitives.URI{}, primitives.Invalid(field, "%q does not name a volume; expected DEVICE/VOLUME", text)
	}
	return u, err
}

// snapshotFrom reads the URI of a snapshot.
func snapshotFrom(field, text string) (primitives.URI, error) {
	u, err := uriFrom(field, text)
	if err == nil && !u.IsSnapshot() {
		return primitives.URI{}, primitives.Invalid(field, "%q does not name a snapshot; expected DEVICE/VOLUME@SNAPSHOT", text)
	}
	return u, err
}

// contentFrom reads the URI of a volume or snapshot.
func contentFrom(field, text string) (primitives.URI, error) {
	u, err := uriFrom(field, text)
	if err == nil && u.Volume == "" {
		return primitives.URI{}, primitives.Invalid(field, "%q names a device; expected DEVICE/VOLUME or DEVICE/VOLUME@SNAPSHOT", text)
	}
	return u, err
}

// shownURI is the URI of an answer; nothing stays nothing.
func shownURI(u primitives.URI) string {
	if u.IsZero() {
		return ""
	}
	return u.String()
}

// capabilitiesOf returns what an object or device can do; nil where the facets are
// not known, as for an object in the result of an operation of long ago.
func capabilitiesOf(c primitives.Caps, f *primitives.Facets) *tenonv1.Capabilities {
	if f == nil {
		return nil
	}
	out := &tenonv1.Capabilities{
		Manageable: c.Manageable, RandomWrite: c.RandomWrite, SharedAcrossHosts: c.SharedAcrossHosts,
		ExclusiveActivate: c.ExclusiveActivate, ZeroOnCreate: c.ZeroOnCreate, ThinProvisioned: c.ThinProvisioned,
		CloneIsCopy: c.CloneIsCopy, DelinkFreesName: c.DelinkFreesName,
		DeleteWithSnapshots: tenonv1.DeletePolicy(c.DeleteWithSnaps + 1),
		Snapshot:            f.Snapshots != nil && c.Snapshot, SnapshotLive: tenonv1.LiveSnapshot(c.SnapshotLive + 1), SnapshotGroup: c.SnapshotGroup,
		Revert: tenonv1.RevertPolicy(c.Revert + 1),
		Resize: f.Resize != nil, ResizeOnline: c.ResizeOnline, Shrink: c.Shrink,
		Delta: f.Delta != nil, DeltaAcrossDelink: c.DeltaAcrossDelink,
		Map: f.Map != nil, Import: f.Import != nil, CopyPeers: c.CopyPeers,
	}
	for _, format := range c.Formats {
		out.Formats = append(out.Formats, string(format))
	}
	for _, form := range c.Forms {
		out.Forms = append(out.Forms, form.String())
	}
	for _, e := range c.Erase {
		out.Erase = append(out.Erase, e.String())
	}
	return out
}

// volumeOf returns a volume as the API tells it.
func volumeOf(o primitives.Object, f *primitives.Facets) *tenonv1.Volume {
	return &tenonv1.Volume{
		Uri: shownURI(o.URI), Handle: string(o.Handle), State: stateOf(o.State), SizeBytes: o.Size, UsedBytes: o.Used,
		Format: string(o.Format), Generation: o.Generation, Parent: string(o.Parent), Dependents: int32(o.Dependents),
		CreateTime: at(o.Created), Properties: o.Props, Capabilities: capabilitiesOf(o.Caps, f),
	}
}

// snapshotOf returns a snapshot as the API tells it.
func snapshotOf(o primitives.Object, f *primitives.Facets) *tenonv1.Snapshot {
	return &tenonv1.Snapshot{
		Uri: shownURI(o.URI), Handle: string(o.Handle), State: stateOf(o.State), SizeBytes: o.Size, UsedBytes: o.Used,
		Format: string(o.Format), Generation: o.Generation, Parent: string(o.Parent), Dependents: int32(o.Dependents),
		CreateTime: at(o.Created), Properties: o.Props, Capabilities: capabilitiesOf(o.Caps, f),
	}
}

// tombstoneOf returns a tombstone as the API tells it; o adds its sizes where
// they are known.
func tombstoneOf(t primitives.Tombstone, o *primitives.Object) *tenonv1.Tombstone {
	out := &tenonv1.Tombstone{
		Device: t.Was.Device, Id: t.ID, Was: shownURI(t.Was), UsedBytes: -1, SizeBytes: -1,
		DelinkTime: at(t.Delinked), ExpireTime: at(t.Expires),
	}
	if o != nil {
		out.SizeBytes, out.UsedBytes = o.Size, o.Used
	}
	return out
}

// accepts prints shapes of mapping, such as "file/qcow2".
func accepts(all []primitives.Acceptable) []string {
	texts := make([]string, len(all))
	for i, a := range all {
		kind := string(a.Format)
		if a.Form == primitives.FormNetwork {
			kind = a.Protocol
		}
		texts[i] = strings.TrimSuffix(a.Form.String()+"/"+kind, "/")
	}
	return texts
}
