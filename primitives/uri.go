// SPDX-License-Identifier: Apache-2.0

package primitives

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Scheme is the scheme of every URI.
const Scheme = "tenon"

// Longest names that tenon accepts, in bytes. A driver encodes names as it
// needs to; these leave room for that within the 255 bytes of a file name.
const (
	MaxDeviceName = 63
	MaxName       = 128
)

// URI is the logical name of a device, volume or snapshot:
//
//	tenon://DEVICE
//	tenon://DEVICE/VOLUME
//	tenon://DEVICE/VOLUME@SNAPSHOT
//
// It is never a host path. There is no escaping: what stands between the
// separators is the name, byte for byte.
type URI struct{ Device, Volume, Snapshot string }

// ParseURI reads a URI, with or without the leading "tenon://". Its errors have
// CodeInvalid and name the part that is wrong.
func ParseURI(s string) (URI, error) {
	rest, full := strings.CutPrefix(s, Scheme+"://")
	if !full && strings.Contains(s, "://") {
		return URI{}, invalidName("uri", s, "the scheme must be tenon://")
	}
	device, path, hasVolume := strings.Cut(rest, "/")
	u := URI{Device: device}
	if hasVolume {
		var hasSnapshot bool
		u.Volume, u.Snapshot, hasSnapshot = strings.Cut(path, "@")
		if u.Volume == "" {
			return URI{}, invalidName("volume", s, "the volume's name is empty; write DEVICE/VOLUME")
		}
		if hasSnapshot && u.Snapshot == "" {
			return URI{}, invalidName("snapshot", s, "the snapshot's name is empty; write DEVICE/VOLUME@SNAPSHOT")
		}
	}
	if err := u.Check(); err != nil {
		return URI{}, err
	}
	return u, nil
}

// Check reports the first part of u that is not a legal name, with CodeInvalid.
func (u URI) Check() error {
	if err := CheckDeviceName(u.Device); err != nil {
		return err
	}
	if u.Volume == "" {
		if u.Snapshot != "" {
			return invalidName("volume", u.Snapshot, "a snapshot needs a volume; write DEVICE/VOLUME@SNAPSHOT")
		}
		return nil
	}
	if err := checkName("volume", u.Volume); err != nil {
		return err
	}
	if u.Snapshot == "" {
		return nil
	}
	return checkName("snapshot", u.Snapshot)
}

// String prints u so that ParseURI reads it back.
func (u URI) String() string { return Scheme + "://" + u.Short() }

// Short prints u as people type it: DEVICE/VOLUME@SNAPSHOT.
func (u URI) Short() string {
	s := u.Device
	if u.Volume != "" {
		s += "/" + u.Volume
	}
	if u.Snapshot != "" {
		s += "@" + u.Snapshot
	}
	return s
}

// IsZero reports whether u names nothing.
func (u URI) IsZero() bool { return u == URI{} }

// IsVolume reports whether u names a volume, not a device or a snapshot.
func (u URI) IsVolume() bool { return u.Volume != "" && u.Snapshot == "" }

// IsSnapshot reports whether u names a snapshot.
func (u URI) IsSnapshot() bool { return u.Snapshot != "" }

// At returns the URI of the snapshot of that name of u's volume.
func (u URI) At(snapshot string) URI {
	u.Snapshot = snapshot
	return u
}

// Parent returns the URI of the volume that u is, or is a snapshot of.
func (u URI) Parent() URI { return u.At("") }

// CheckDeviceName reports, with CodeInvalid, why name cannot be a device's. A
// device's name is 1 to 63 of a-z, 0-9 and '-', and begins with a letter or
// digit, because it becomes part of unit names, metric labels and folders.
func CheckDeviceName(name string) error {
	const want = "expected 1 to 63 of a-z, 0-9 and '-', not beginning with '-'"
	if name == "" || len(name) > MaxDeviceName || name[0] == '-' {
		return invalidName("device", name, want)
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return invalidName("device", name, want)
		}
	}
	return nil
}

// CheckSnapshotName reports, with CodeInvalid, why name cannot be a snapshot's.
func CheckSnapshotName(name string) error { return checkName("snapshot", name) }

// checkName holds for volumes and snapshots: what would be ambiguous in a URI,
// on a terminal or in a log is refused, everything else is stored faithfully.
func checkName(field, name string) error {
	switch {
	case name == "":
		return invalidName(field, name, "the name is empty")
	case len(name) > MaxName:
		return invalidName(field, name, fmt.Sprintf("the name has %d bytes, at most %d are allowed", len(name), MaxName))
	case !utf8.ValidString(name):
		return invalidName(field, name, "the name is not valid UTF-8")
	case name == "." || name == "..":
		return invalidName(field, name, "the name is a folder's, not a volume's")
	case strings.TrimSpace(name) != name:
		return invalidName(field, name, "the name begins or ends with a space")
	}
	for _, r := range name {
		if r == '/' || r == '@' || !unicode.IsPrint(r) {
			return invalidName(field, name, fmt.Sprintf("the name holds %q, which is not allowed ('/', '@', control and invisible characters)", r))
		}
	}
	return nil
}

func invalidName(field, value, why string) *Error {
	const shown = 80
	if len(value) > shown {
		value = value[:shown] + "…"
	}
	return &Error{
		Code:     CodeInvalid,
		Problems: []Problem{{Prop: field, Message: fmt.Sprintf("%q: %s", value, why), Fatal: true}},
	}
}
