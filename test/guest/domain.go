// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"path/filepath"
	"strings"
	"text/template"
)

const (
	// shellPort is the virtio serial port that the guest answers commands on.
	shellPort = "org.tenon.test.0"

	// kernelOptions leave out what costs an emulated processor half a second of the boot. The clock is the ACPI timer,
	// because on a busy host the kernel may measure the processor's at a tenth of its speed, and then every pause of the
	// guest takes ten times as long.
	kernelOptions = "console=ttyS0 quiet nokaslr mitigations=off cryptomgr.notests rcupdate.rcu_expedited=1 no_timer_check clocksource=acpi_pm"

	// DefaultMemoryMiB is enough for the guest with a few disks.
	DefaultMemoryMiB = 128

	// DefaultHotplugPorts is how many disks can be plugged into a running guest beside those that it starts with.
	DefaultHotplugPorts = 8
)

// A Domain describes a guest to libvirt.
type Domain struct {
	Name  string
	UUID  string // empty lets libvirt choose one, which a definition must not do if it is ever repeated
	Image Image
	// Dir is an existing folder that takes the guest's sockets and its console's output. It needs a short
	// path: the address of a unix socket has room for 107 bytes.
	Dir string

	MemoryMiB    int // 0 means DefaultMemoryMiB
	HotplugPorts int // 0 means DefaultHotplugPorts

	// Devices is XML of further devices, disks for example, that stand in <devices>.
	Devices string
	// NoAgent leaves out the channel of the QEMU guest agent.
	NoAgent bool
}

// ShellSocket is the unix socket on which the running guest answers commands: what Dial wants.
func (d Domain) ShellSocket() string { return filepath.Join(d.Dir, d.Name+".shell") }

// ConsoleFile is the file that holds what the guest printed. "GUEST READY" in it says that the guest is up.
func (d Domain) ConsoleFile() string { return filepath.Join(d.Dir, d.Name+".console") }

// DomainXML returns d as libvirt wants it. The machine is a q35 without KVM: many hosts on which tests run have none, or have one that fails.
func DomainXML(d Domain) string {
	d.MemoryMiB = cmp.Or(d.MemoryMiB, DefaultMemoryMiB)
	d.HotplugPorts = cmp.Or(d.HotplugPorts, DefaultHotplugPorts)
	var out bytes.Buffer
	if err := domainTemplate.Execute(&out, d); err != nil {
		panic(err) // the template is a constant and its fields are d's
	}
	return out.String()
}

var domainTemplate = template.Must(template.New("domain").Funcs(template.FuncMap{"xml": escape}).Parse(
	`<domain type='qemu'>
  <name>{{xml .Name}}</name>
{{- with .UUID}}
  <uuid>{{xml .}}</uuid>
{{- end}}
  <memory unit='MiB'>{{.MemoryMiB}}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{{xml .Image.Kernel}}</kernel>
    <initrd>{{xml .Image.Initrd}}</initrd>
    <cmdline>` + kernelOptions + `</cmdline>
  </os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <controller type='pci' model='pcie-root'/>
{{- range .HotplugPorts}}
    <controller type='pci' model='pcie-root-port'/>
{{- end}}
    <controller type='scsi' model='virtio-scsi'/>
    <controller type='virtio-serial'/>
    <controller type='usb' model='none'/>
    <serial type='file'>
      <source path='{{xml .ConsoleFile}}'/>
    </serial>
    <channel type='unix'>
      <source mode='bind' path='{{xml .ShellSocket}}'/>
      <target type='virtio' name='` + shellPort + `'/>
    </channel>
{{- if not .NoAgent}}
    <channel type='unix'>
      <source mode='bind'/>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
{{- end}}
    <rng model='virtio'>
      <backend model='random'>/dev/urandom</backend>
    </rng>
    <memballoon model='none'/>
{{.Devices}}
  </devices>
</domain>
`))

func escape(text string) (string, error) {
	var out strings.Builder
	err := xml.EscapeText(&out, []byte(text))
	return out.String(), err
}
