// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"testing"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/test/guest"
)

func TestDomainXMLKeepsWhatItIsGiven(t *testing.T) {
	want := guest.Domain{
		Name:         "a<b>&'c'",
		UUID:         "8b1f3f0e-0000-4000-8000-000000000001",
		Image:        guest.Image{Kernel: "/k&k", Initrd: "/i"},
		Dir:          "/d d",
		MemoryMiB:    96,
		HotplugPorts: 3,
		Devices:      "<watchdog model='itco'/>",
		NoAgent:      true,
	}
	var got libvirtxml.Domain
	if err := got.Unmarshal(guest.DomainXML(want)); err != nil {
		t.Fatal(err)
	}
	if got.Type != "qemu" {
		t.Errorf("domain type = %q, want qemu", got.Type)
	}
	if got.Name != want.Name || got.UUID != want.UUID || got.OS.Kernel != want.Image.Kernel || got.Memory.Value != 96 {
		t.Errorf("name, uuid, kernel, memory = %q, %q, %q, %d", got.Name, got.UUID, got.OS.Kernel, got.Memory.Value)
	}
	ports := 0
	for _, controller := range got.Devices.Controllers {
		if controller.Model == "pcie-root-port" {
			ports++
		}
	}
	if ports != 3 || len(got.Devices.Watchdogs) != 1 || len(got.Devices.Channels) != 1 {
		t.Errorf("root ports, watchdogs, channels = %d, %d, %d, want 3, 1, 1", ports, len(got.Devices.Watchdogs), len(got.Devices.Channels))
	}
	if path := got.Devices.Channels[0].Source.UNIX.Path; path != want.ShellSocket() {
		t.Errorf("the channel's socket = %q, want %q", path, want.ShellSocket())
	}
}
