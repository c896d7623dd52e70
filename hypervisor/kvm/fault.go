// SPDX-License-Identifier: Apache-2.0

package kvm

import (
	"errors"
	"strings"

	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
	"github.com/tenon-storage/tenon/primitives"
)

// codes is what libvirt's error numbers mean to a caller.
var codes = map[virt.Code]primitives.Code{
	virt.CodeNoDomain:             primitives.CodeNotFound,
	virt.CodeDeviceMissing:        primitives.CodeNotFound,
	virt.CodeNoDomainSnapshot:     primitives.CodeNotFound,
	virt.CodeNoSupport:            primitives.CodeUnsupported,
	virt.CodeConfigUnsupported:    primitives.CodeUnsupported,
	virt.CodeArgumentUnsupported:  primitives.CodeUnsupported,
	virt.CodeOperationUnsupported: primitives.CodeUnsupported,
	// "not in the state for that": the state was checked before, so it has moved.
	virt.CodeOperationInvalid:  primitives.CodeConflict,
	virt.CodeBlockCopyActive:   primitives.CodeInUse,
	virt.CodeResourceBusy:      primitives.CodeInUse,
	virt.CodeOperationTimeout:  primitives.CodeUnavailable,
	virt.CodeRPC:               primitives.CodeUnavailable,
	virt.CodeAgentUnresponsive: primitives.CodeUnavailable,
	virt.CodeAgentUnsynced:     primitives.CodeUnavailable,
	virt.CodeAgentTimeout:      primitives.CodeUnavailable,
	virt.CodeOperationDenied:   primitives.CodeDenied,
	virt.CodeAccessDenied:      primitives.CodeDenied,
	virt.CodeAuthFailed:        primitives.CodeDenied,
	virt.CodeAuthCancelled:     primitives.CodeDenied,
	virt.CodeAuthUnavailable:   primitives.CodeDenied,
}

// texts is the last resort: what QEMU says comes through libvirt as an internal
// error (1) or a failed operation (9) with QEMU's English text and nothing else.
// The texts are those of QEMU 7.2; one that is not found leaves CodeInternal.
var texts = []struct {
	part string
	code primitives.Code
}{
	// An image that another process, or another disk, has open.
	{`Failed to get "write" lock`, primitives.CodeInUse},
	{`Failed to get shared "write" lock`, primitives.CodeInUse},
	{`Failed to get "consistent read" lock`, primitives.CodeInUse},
	{`is in use`, primitives.CodeInUse},
	{`in active block job`, primitives.CodeInUse},
	{`No space left on device`, primitives.CodeNoSpace},
	{`No more available PCI slots`, primitives.CodeNoSpace},
	// By file permissions, SELinux or AppArmor.
	{`Permission denied`, primitives.CodeDenied},
	{`Cannot grow NBD nodes`, primitives.CodeUnsupported},
	{`does not support resize`, primitives.CodeUnsupported},
	// A disk without the host's cache that is copied to where it needs one.
	{`does not support O_DIRECT`, primitives.CodeUnsupported},
	// A block device that has not grown yet.
	{`Cannot grow device files`, primitives.CodeConflict},
	{`No such file or directory`, primitives.CodeNotFound},
	{`no device found with alias`, primitives.CodeNotFound}, // libvirt 9.0 has a code for it (99) and gives 1
	{`Requested export not available`, primitives.CodeNotFound},
	{`already in the process of unplug`, primitives.CodeConflict},
	// An NBD server that is away.
	{`Failed to connect to`, primitives.CodeUnavailable},
	{`Connection refused`, primitives.CodeUnavailable},
	// A QEMU that ended under the call.
	{`end of file from monitor`, primitives.CodeUnavailable},
	{`monitor was disconnected`, primitives.CodeUnavailable},
	{`Unable to read from monitor`, primitives.CodeUnavailable},
	{`Unable to write to monitor`, primitives.CodeUnavailable},
}

// classify turns libvirt's error into one of the contract's.
func classify(what string, e *virt.Error) error {
	code, known := codes[e.Code]
	if e.Remote && !known {
		code, known = primitives.CodeUnavailable, true
	}
	if !known || e.Code == virt.CodeOperationUnsupported {
		for _, t := range texts {
			if strings.Contains(e.Text, t.part) {
				code, known = t.code, true
				break
			}
		}
	}
	if !known {
		code = primitives.CodeInternal
	}
	return primitives.Errorf(code, "%s: %w", what, e)
}

func unreachable(uri string, err error) error {
	code := primitives.CodeUnavailable
	if e, ok := errors.AsType[*virt.Error](err); ok && codes[e.Code] == primitives.CodeDenied {
		code = primitives.CodeDenied
	}
	return primitives.Errorf(code, "connect to %s: %w", uri, err).
		Trying("start libvirt (systemctl start libvirtd, or virtqemud), or install libvirt-daemon-driver-qemu")
}

func noDisk(d hypervisor.DomainID, id hypervisor.DiskID) *primitives.Error {
	return primitives.Errorf(primitives.CodeNotFound, "domain %s has no disk %s", d, id)
}

func notRunning(d virt.Domain, what string) *primitives.Error {
	return primitives.Errorf(primitives.CodeUnsupported, "%s: domain %s is not running", what, d.Name)
}

// checkDomain reports why id cannot be a domain's.
func checkDomain(id hypervisor.DomainID) error {
	wrong := primitives.Invalid("domain", "%.60q: expected a UUID in lower case, such as 6ba7b810-9dad-11d1-80b4-00c04fd430c8", string(id))
	if len(id) != len("6ba7b810-9dad-11d1-80b4-00c04fd430c8") {
		return wrong
	}
	for i := range len(id) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (id[i] == '-') || !dash && !strings.ContainsRune("0123456789abcdef", rune(id[i])) {
			return wrong
		}
	}
	return nil
}
