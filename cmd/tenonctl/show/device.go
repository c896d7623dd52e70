// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"strings"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// Devices lists devices.
func (s Style) Devices(devices []*tenonv1.Device) string {
	t := table{header: []string{"DEVICE", "DRIVER", "HEALTH", ">SIZE", ">FREE", "NOTE"}}
	for _, d := range devices {
		total, free := space(d)
		t.add(d.GetName(), d.GetDriver(), word(d.GetHealth()), total, free, oneLine(d.GetHealthNote()))
	}
	return t.String()
}

// space shows a device's room; one that does not answer has none to show.
func space(d *tenonv1.Device) (total, free string) {
	if d.GetCapabilities() == nil {
		return absent, absent
	}
	return Size(d.GetTotalBytes()), Size(d.GetFreeBytes())
}

// Device shows one device.
func (s Style) Device(d *tenonv1.Device) string {
	var sh sheet
	sh.add("device", d.GetName())
	sh.add("driver", d.GetDriver())
	sh.add("health", word(d.GetHealth()))
	sh.addIf("note", oneLine(d.GetHealthNote()))
	sh.addMap("properties", d.GetProperties())
	sh.addIf("secrets", strings.Join(d.GetSecretNames(), ", "))
	sh.addIf("backend", d.GetBackend())
	if d.GetCapabilities() == nil {
		return sh.String()
	}
	total, free := space(d)
	sh.add("size", total)
	sh.add("free", free)
	sh.add("granule", Size(d.GetGranuleBytes()))
	if d.GetMaxVolumeBytes() > 0 {
		sh.add("largest volume", Size(d.GetMaxVolumeBytes()))
	}
	sh.add("observed", s.time(d.GetObserveTime()))
	sh.capabilities(d.GetCapabilities())
	return sh.String()
}

// capabilities says what a device can do, one line for each question that an
// administrator has.
func (s *sheet) capabilities(c *tenonv1.Capabilities) {
	s.add("formats", or(strings.Join(c.GetFormats(), ", ")))
	s.add("attach as", or(strings.Join(c.GetForms(), ", ")))
	snapshots := "no"
	if c.GetSnapshot() {
		snapshots = "in use: " + word(c.GetSnapshotLive())
		if c.GetSnapshotGroup() {
			snapshots += "; several volumes at once"
		}
	}
	s.add("snapshots", snapshots)
	s.add("revert", word(c.GetRevert()))
	s.add("delink with snapshots", word(c.GetDeleteWithSnapshots()))
	resize := "no"
	if c.GetResize() {
		resize = "grow"
		if c.GetShrink() {
			resize += ", shrink"
		}
		if c.GetResizeOnline() {
			resize += ", while in use"
		}
	}
	s.add("resize", resize)
	clone := "shares data with its source"
	if c.GetCloneIsCopy() {
		clone = "copies its source"
	}
	s.add("clone", clone)
	s.add("thin", yes(c.GetThinProvisioned()))
	s.add("delta", yes(c.GetDelta()))
	s.add("import", yes(c.GetImport()))
	s.add("shared across hosts", yes(c.GetSharedAcrossHosts()))
	s.add("erase", or(strings.Join(c.GetErase(), ", ")))
	s.addIf("copies by itself to", strings.Join(c.GetCopyPeers(), ", "))
}

// Checks shows what a check of a device found.
func Checks(checks []*tenonv1.DeviceCheck) string {
	var t table
	t.header = []string{"CHECK", "RESULT", "DETAIL"}
	for _, c := range checks {
		result := "ok"
		if !c.GetOk() {
			result = "failed"
		}
		t.add(c.GetName(), result, oneLine(c.GetDetail()))
	}
	return t.String()
}

// Drivers lists drivers.
func Drivers(drivers []*tenonv1.Driver) string {
	t := table{header: []string{"DRIVER", "VERSION", "SUMMARY"}}
	for _, d := range drivers {
		t.add(d.GetName(), d.GetVersion(), oneLine(d.GetSummary()))
	}
	return t.String()
}

// Driver shows one driver with its properties.
func Driver(d *tenonv1.Driver) string {
	var sh sheet
	sh.add("driver", d.GetName())
	sh.add("version", d.GetVersion())
	sh.add("summary", oneLine(d.GetSummary()))
	contract := fmt.Sprint(d.GetContractMax())
	if d.GetContractMin() != d.GetContractMax() {
		contract = fmt.Sprintf("%d to %d", d.GetContractMin(), d.GetContractMax())
	}
	sh.add("contract", contract)
	t := table{header: []string{"PROPERTY", "TYPE", "ON", "DEFAULT", "CHANGES", "MEANING"}}
	for _, p := range d.GetProperties() {
		t.add(p.GetName(), propertyType(p), scopes(p), propertyDefault(p), word(p.GetMutability()), oneLine(p.GetHelp()))
	}
	if len(t.rows) == 0 {
		return sh.String()
	}
	return sh.String() + "\n" + t.String()
}

func propertyType(p *tenonv1.PropertySpec) string {
	switch {
	case p.GetSecret():
		return "secret"
	case p.GetType() == tenonv1.PropertyType_PROPERTY_TYPE_ENUM:
		return strings.Join(p.GetEnumValues(), "|")
	}
	return word(p.GetType())
}

func propertyDefault(p *tenonv1.PropertySpec) string {
	if p.GetRequired() {
		return "required"
	}
	return or(p.GetDefaultValue())
}

func scopes(p *tenonv1.PropertySpec) string {
	words := make([]string, len(p.GetScopes()))
	for i, s := range p.GetScopes() {
		words[i] = word(s)
	}
	return strings.Join(words, ",")
}
