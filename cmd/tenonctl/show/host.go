// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"strings"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// Host shows the host.
func (s Style) Host(h *tenonv1.Host) string {
	var sh sheet
	sh.add("host", h.GetName())
	sh.add("id", or(h.GetId()))
	sh.add("kernel", or(h.GetKernel()))
	sh.add("tenond", fmt.Sprintf("%s, pid %d, since %s", or(h.GetVersion()), h.GetPid(), s.time(h.GetStartTime())))
	sh.add("drivers", fmt.Sprint(h.GetDrivers()))
	sh.add("devices", fmt.Sprintf("%d, %d of them healthy", h.GetDevices(), h.GetDevicesHealthy()))
	sh.add("operations", fmt.Sprintf("%d running", h.GetOperationsRunning()))
	for _, v := range h.GetHypervisors() {
		sh.add("hypervisor", hypervisor(v))
		sh.addIf("  note", oneLine(v.GetNote()))
		sh.addIf("  accepts", strings.Join(v.GetAccepts(), ", "))
	}
	if len(h.GetHypervisors()) == 0 {
		sh.add("hypervisor", "none")
	}
	return sh.String()
}

func hypervisor(v *tenonv1.Hypervisor) string {
	if !v.GetConnected() {
		return v.GetName() + ": not connected"
	}
	return fmt.Sprintf("%s: %s through %s", v.GetName(), or(v.GetHypervisor()), or(v.GetLibrary()))
}
