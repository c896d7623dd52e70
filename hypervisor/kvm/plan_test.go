// SPDX-License-Identifier: Apache-2.0

package kvm_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/fake"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

func fileMapping(path string, format primitives.Format, backing ...primitives.FileMap) primitives.Mapping {
	return primitives.Mapping{
		Form: primitives.FormFile, Access: primitives.ReadWrite,
		File: &primitives.FileMap{Path: path, Format: format, Backing: backing},
	}
}

func nbdMapping(n primitives.NetworkMap) primitives.Mapping {
	n.Protocol = "nbd"
	return primitives.Mapping{Form: primitives.FormNetwork, Access: primitives.ReadWrite, Network: &n}
}

// The XML is spelt out, because a tag that is wrong by one letter is dropped in
// silence, and libvirt then probes, guesses or lower-cases (C3.23).
func TestDiskXMLSaysEverythingThatLibvirtWouldGuess(t *testing.T) {
	block := primitives.Mapping{
		Form: primitives.FormBlock, Access: primitives.ReadWrite, Direct: true, Discard: true, Logical: 512, Physical: 4096,
		Block: &primitives.BlockMap{Path: "/dev/disk/by-id/wwn-0xABC"},
	}
	readOnly := fileMapping("/srv/A b,c.img", "raw")
	readOnly.Access = primitives.ReadOnly
	const driver = `<driver name="qemu" type="%s" error_policy="stop" rerror_policy="stop"></driver>`
	tail := func(more string) string {
		return `<target dev="vdb" bus="virtio"></target>` + more + `<serial>d-1</serial><alias name="ua-tenon-d-1_x"></alias></disk>`
	}
	driverOf := func(format string) string { return strings.Replace(driver, "%s", format, 1) }
	for name, c := range map[string]struct {
		m    primitives.Mapping
		want string
	}{
		"a block device with direct I/O and discard": {
			block,
			`<disk type="block" device="disk"><driver name="qemu" type="raw" cache="none" error_policy="stop" rerror_policy="stop" io="native" discard="unmap"></driver>` +
				`<source dev="/dev/disk/by-id/wwn-0xABC"></source><backingStore></backingStore>` +
				`<blockio logical_block_size="512" physical_block_size="4096"></blockio>` + tail(""),
		},
		"a raw file to read": {
			readOnly,
			`<disk type="file" device="disk">` + driverOf("raw") + `<source file="/srv/A b,c.img"></source><backingStore></backingStore>` + tail("<readonly></readonly>"),
		},
		"a chain down to its end": {
			fileMapping("/c", "qcow2", primitives.FileMap{Path: "/b", Format: "qcow2"}, primitives.FileMap{Path: "/a", Format: "raw"}),
			`<disk type="file" device="disk">` + driverOf("qcow2") + `<source file="/c"></source>` +
				`<backingStore type="file"><format type="qcow2"></format><source file="/b"></source>` +
				`<backingStore type="file"><format type="raw"></format><source file="/a"></source><backingStore></backingStore></backingStore></backingStore>` + tail(""),
		},
		"NBD over a unix socket": {
			nbdMapping(primitives.NetworkMap{Export: "e x", Socket: "/run/S"}),
			`<disk type="network" device="disk">` + driverOf("raw") + `<source protocol="nbd" name="e x"><host transport="unix" socket="/run/S"></host><reconnect delay="300"></reconnect></source>` +
				`<backingStore></backingStore>` + tail(""),
		},
		"NBD over TCP": {
			nbdMapping(primitives.NetworkMap{Export: "e", Hosts: []string{"[fd00::1]:10809"}}),
			`<disk type="network" device="disk">` + driverOf("raw") + `<source protocol="nbd" name="e"><host name="fd00::1" port="10809"></host><reconnect delay="300"></reconnect></source>` +
				`<backingStore></backingStore>` + tail(""),
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := kvm.DiskXML("d-1", "ua-tenon-d-1_x", c.m, "virtio", "vdb").Marshal()
			if err != nil {
				t.Fatal(err)
			}
			flat := strings.ReplaceAll(strings.ReplaceAll(got, "\n", ""), "  ", "")
			if diff := cmp.Diff(c.want, flat); diff != "" {
				t.Errorf("the XML differs (-want +got):\n%s", diff)
			}
		})
	}
}

// What is printed is read back: the path arrives as it was, or is refused.
func FuzzPathsArriveAsTheyAre(f *testing.F) {
	for _, p := range []string{"/srv/Upper Case.img", "/a,b", "/späce→ディスク", "/\"'<&>", "/a\nb\tc\rd", "/\x00", "/\xff", "/]]>", "/%41", "/\ufffe"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		m := fileMapping(path, "raw")
		if kvm.CheckMapping(m) != nil {
			return
		}
		text, err := kvm.DiskXML("d", "ua-tenon-d", m, "virtio", "vda").Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var back libvirtxml.DomainDisk
		if err := back.Unmarshal(text); err != nil {
			t.Fatal(err)
		}
		if got := kvm.SourceOf(&back); !got.Shows(m) {
			t.Errorf("path %q arrives as %q", path, got.Path)
		}
	})
}

func TestTargetNamesGoOnAfterZ(t *testing.T) {
	var names []string
	for n, want := range map[int]string{0: "vda", 25: "vdz", 26: "vdaa", 701: "vdzz", 702: "vdaaa"} {
		if got := kvm.TargetName("vd", n); got != want {
			t.Errorf("targetName(%d) = %s, want %s", n, got, want)
		}
	}
	for n := range 800 {
		names = append(names, kvm.TargetName("vd", n))
	}
	if !slices.IsSortedFunc(names, kvm.CompareTargets) {
		t.Errorf("targets do not sort in the order in which they are given out")
	}
}

// domain reads a domain with those disks.
func domain(t *testing.T, disks ...string) *libvirtxml.Domain {
	t.Helper()
	text := strings.Replace(fake.DomainXML(onID, "dom"), "</devices>", strings.Join(disks, "")+"</devices>", 1)
	var d libvirtxml.Domain
	if err := d.Unmarshal(text); err != nil {
		t.Fatal(err)
	}
	return &d
}

func diskOf(target, path, alias string) string {
	return `<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='` + path + `'/><target dev='` + target +
		`' bus='virtio'/><alias name='` + alias + `'/></disk>`
}

func TestFreeTargetLooksAtBothHalves(t *testing.T) {
	live, config := domain(t, diskOf("vda", "/a", "x")), domain(t, diskOf("vdb", "/b", "y"))
	if got := kvm.FreeTarget("virtio", live, config); got != "vdc" {
		t.Errorf("freeTarget = %s, want vdc", got)
	}
	if got := kvm.FreeTarget("scsi", live, nil); got != "sda" {
		t.Errorf("freeTarget(scsi) = %s, want sda", got)
	}
}

func TestFreeSlotsCountsRootPortsOrSlots(t *testing.T) {
	used := `<interface type='user'><address type='pci' domain='0' bus='3' slot='0' function='0'/></interface>`
	pc := &libvirtxml.Domain{}
	if err := pc.Unmarshal(`<domain type='qemu'><devices><controller type='pci' index='0' model='pci-root'/>
		<controller type='ide' index='0'><address type='pci' domain='0' bus='0' slot='1' function='1'/></controller>
		<controller type='usb' index='0'><address type='pci' domain='0' bus='0' slot='1' function='2'/></controller></devices></domain>`); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		d    *libvirtxml.Domain
		want int
	}{
		"eight root ports":             {domain(t), 8},
		"one of them taken":            {domain(t, used), 7},
		"conventional PCI":             {pc, 30},
		"a machine without PCI":        {&libvirtxml.Domain{Devices: &libvirtxml.DomainDeviceList{}}, -1},
		"a domain that is not running": {nil, -1},
	} {
		if got := kvm.FreeSlots(c.d); got != c.want {
			t.Errorf("%s: freeSlots = %d, want %d", name, got, c.want)
		}
	}
}

// A disk that is not tenon's, such as the CD-ROM and the one that the guest boots from, has no id to detach it by.
//
// Cases: E98
func TestDisksOfBothHalvesAreMerged(t *testing.T) {
	cdrom := `<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>`
	live := domain(t, diskOf("vdb", "/live", "ua-tenon-one_abc"), diskOf("vda", "/root", "virtio-disk0"), cdrom)
	config := domain(t, diskOf("vda", "/root", ""), diskOf("vdc", "/config", "ua-tenon-one_xyz"), diskOf("vdd", "/next", "ua-tenon-two"), cdrom)
	type short struct {
		ID           hypervisor.DiskID
		Target, Path string
		Live, Config bool
	}
	var got []short
	for _, d := range kvm.MergeDisks(live, config) {
		got = append(got, short{d.ID, d.Target, d.Source.Path, d.Live, d.Config})
	}
	want := []short{
		{"", "sda", "", true, true},
		{"", "vda", "/root", true, true},
		{"one", "vdb", "/live", true, true}, // one disk by its ID, though its targets differ
		{"two", "vdd", "/next", false, true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("disks (-want +got):\n%s", diff)
	}
}

func TestAliasesCarryTheIDAndAreNeverReused(t *testing.T) {
	one, two := kvm.NewAlias("d-1"), kvm.NewAlias("d-1")
	if one == two {
		t.Errorf("two aliases of a disk are both %s", one)
	}
	for alias, want := range map[string]hypervisor.DiskID{
		one: "d-1", "ua-tenon-d-1": "d-1", "ua-tenon-": "", "ua-tenon-UPPER": "", "ua-other": "", "virtio-disk0": "",
	} {
		if got := kvm.IDOf(&libvirtxml.DomainDisk{Alias: &libvirtxml.DomainAlias{Name: alias}}); got != want {
			t.Errorf("idOf(%s) = %q, want %q", alias, got, want)
		}
	}
}

func TestPlanAttachReachesWhatIsAskedFromWhatIsThere(t *testing.T) {
	const done, already, notAsked = hypervisor.Done, hypervisor.Already, hypervisor.NotAsked
	ours := func(target string) string { return diskOf(target, "/img", "ua-tenon-d_a") }
	req := hypervisor.AttachRequest{Disk: "d", Bus: "virtio", Mapping: fileMapping("/img", "raw")}
	where := func(w hypervisor.Where) hypervisor.AttachRequest { r := req; r.Where = w; return r }
	full := []string{}
	for _, bus := range "12345678" {
		full = append(full, `<interface type='user'><address type='pci' domain='0' bus='`+string(bus)+`' slot='0' function='0'/></interface>`)
	}
	for name, c := range map[string]struct {
		live, config *libvirtxml.Domain
		r            hypervisor.AttachRequest
		onLive, onC  hypervisor.Outcome
		target       string
		err          error
	}{
		"nothing there":                     {domain(t), domain(t), req, done, done, "vda", nil},
		"both there":                        {domain(t, ours("vdb")), domain(t, ours("vdb")), req, already, already, "", nil},
		"live there: the same target":       {domain(t, ours("vdb")), domain(t), req, already, done, "vdb", nil},
		"live there, its target taken":      {domain(t, ours("vda")), domain(t, diskOf("vda", "/x", "y")), req, already, done, "vdb", nil},
		"definition there":                  {domain(t), domain(t, ours("vdc")), req, done, already, "vdc", nil},
		"off":                               {nil, domain(t), req, notAsked, done, "vda", nil},
		"transient":                         {domain(t), nil, req, done, notAsked, "vda", nil},
		"live only":                         {domain(t), domain(t), where(hypervisor.LiveOnly), done, notAsked, "vda", nil},
		"config only":                       {domain(t), domain(t), where(hypervisor.ConfigOnly), notAsked, done, "vda", nil},
		"live only, off":                    {nil, domain(t), where(hypervisor.LiveOnly), 0, 0, "", primitives.CodeUnsupported},
		"config only, transient":            {domain(t), nil, where(hypervisor.ConfigOnly), 0, 0, "", primitives.CodeUnsupported},
		"another image under the ID":        {domain(t, diskOf("vdb", "/other", "ua-tenon-d")), domain(t), req, 0, 0, "", primitives.CodeConflict},
		"another image in the definition":   {domain(t), domain(t, diskOf("vdb", "/other", "ua-tenon-d")), req, 0, 0, "", primitives.CodeConflict},
		"no slot left":                      {domain(t, full...), domain(t), req, 0, 0, "", primitives.CodeNoSpace},
		"no slot left, definition only":     {domain(t, full...), domain(t), where(hypervisor.ConfigOnly), notAsked, done, "vda", nil},
		"no slot left, but the disk has it": {domain(t, append(full, ours("vdb"))...), domain(t), req, already, done, "vdb", nil},
	} {
		t.Run(name, func(t *testing.T) {
			onLive, onConfig, target, err := kvm.PlanAttach(c.live, c.config, c.r)
			if c.err != nil {
				if !errors.Is(err, c.err) {
					t.Errorf("planAttach = %v, want %v", err, c.err)
				}
				return
			}
			if err != nil || onLive != c.onLive || onConfig != c.onC || target != c.target {
				t.Errorf("planAttach = live %v, config %v, %s, %v; want live %v, config %v, %s", onLive, onConfig, target, err, c.onLive, c.onC, c.target)
			}
		})
	}
}

func TestASwitchNeedsAnOverlayDirectlyUponTheDisk(t *testing.T) {
	now := hypervisor.Source{Form: primitives.FormFile, Path: "/a", Format: "raw"}
	for name, c := range map[string]struct {
		to primitives.Mapping
		ok bool
	}{
		"directly upon it":       {fileMapping("/b", "qcow2", primitives.FileMap{Path: "/a", Format: "raw"}), true},
		"upon another":           {fileMapping("/b", "qcow2", primitives.FileMap{Path: "/x", Format: "raw"}), false},
		"upon it as another":     {fileMapping("/b", "qcow2", primitives.FileMap{Path: "/a", Format: "qcow2"}), false},
		"upon one that is on it": {fileMapping("/c", "qcow2", primitives.FileMap{Path: "/b", Format: "qcow2"}, primitives.FileMap{Path: "/a", Format: "raw"}), false},
		"upon nothing":           {fileMapping("/b", "qcow2"), false},
		"a raw file":             {fileMapping("/b", "raw"), false},
		"a block device":         {primitives.Mapping{Form: primitives.FormBlock, Block: &primitives.BlockMap{Path: "/a"}}, false},
	} {
		if err := kvm.CheckOverlay(now, c.to); (err == nil) != c.ok || err != nil && !errors.Is(err, primitives.CodeUnsupported) {
			t.Errorf("%s: checkOverlay = %v, want ok %v", name, err, c.ok)
		}
	}
}

func TestLibvirtsErrorsBecomeTheContracts(t *testing.T) {
	for name, c := range map[string]struct {
		e    virt.Error
		want primitives.Code
	}{
		"an unknown domain":        {virt.Error{Code: virt.CodeNoDomain}, primitives.CodeNotFound},
		"a state change lock":      {virt.Error{Code: virt.CodeOperationTimeout}, primitives.CodeUnavailable},
		"a wrong state":            {virt.Error{Code: virt.CodeOperationInvalid}, primitives.CodeConflict},
		"polkit":                   {virt.Error{Code: virt.CodeAuthUnavailable}, primitives.CodeDenied},
		"no agent":                 {virt.Error{Code: virt.CodeAgentUnresponsive}, primitives.CodeUnavailable},
		"an image lock":            {virt.Error{Code: virt.CodeInternal, Text: `unable to execute QEMU command 'blockdev-add': Failed to get "write" lock`}, primitives.CodeInUse},
		"a job, said as a lack":    {virt.Error{Code: virt.CodeOperationUnsupported, Text: "disk 'vdb' already in active block job"}, primitives.CodeInUse},
		"a device that is gone":    {virt.Error{Code: virt.CodeInternal, Text: "internal error: no device found with alias ua-tenon-d"}, primitives.CodeNotFound},
		"a plain lack":             {virt.Error{Code: virt.CodeOperationUnsupported, Text: "no"}, primitives.CodeUnsupported},
		"a broken wire":            {virt.Error{Code: virt.CodeInternal, Remote: true, Text: "client socket is closed"}, primitives.CodeUnavailable},
		"what nobody has seen yet": {virt.Error{Code: virt.CodeInternal, Text: "flux capacitor"}, primitives.CodeInternal},
	} {
		if got := primitives.CodeOf(kvm.Classify("x", &c.e)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
