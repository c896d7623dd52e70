// SPDX-License-Identifier: Apache-2.0

// Package virt is what the KVM adapter needs of libvirt, in its own words: plain
// data and one interface. The binding stands behind it in production, a fake of
// the hypervisor in unit tests.
package virt

import "fmt"

// Opener connects to a URI. It blocks as long as libvirt does.
type Opener func(uri string) (Conn, error)

// Conn is one connection. Its calls block for as long as libvirt blocks, which
// may be for ever: only the caller's own goroutine and deadline bound them.
// Domains are named by UUID. Errors are [Error].
type Conn interface {
	// Library and Hypervisor name what is there, with its version. The second may
	// take seconds: libvirt may have to look at QEMU first.
	Library() (string, error)
	Hypervisor() (string, error)
	// Domains lists running and defined domains.
	Domains() ([]Domain, error)
	// ByName looks one domain up, as the listing shows it.
	ByName(name string) (Domain, error)
	// XML returns a domain's XML as it runs, or as it is defined.
	XML(domain string, half Half) (string, error)
	// State returns a domain's state. It does not wait for the hypervisor.
	State(domain string) (Domain, error)
	// Occupied tells for how many milliseconds the monitor of a domain has been
	// busy with one command; 0: it is free. It does not wait for the hypervisor.
	Occupied(domain string) (uint64, error)

	Start(domain string) error
	Shutdown(domain string) error
	// Suspend stops a domain's processors, and returns when no request of the guest
	// is under way; Resume lets them go on.
	Suspend(domain string) error
	Resume(domain string) error

	AttachDevice(domain, xml string, half Half) error
	// DetachDevice asks for the removal of the device of that alias and returns
	// when it was asked for, not when the device is gone.
	DetachDevice(domain, alias string, half Half) error
	UpdateDevice(domain, xml string, half Half) error

	// BlockCapacity returns the size in bytes that the running domain sees.
	BlockCapacity(domain, target string) (int64, error)
	BlockResize(domain, target string, size int64) error

	// Freeze freezes all file systems of the guest and Thaw thaws them; both
	// return how many. libvirt gives up on the guest agent after those seconds.
	Freeze(domain string, seconds int) (int, error)
	Thaw(domain string, seconds int) (int, error)

	SnapshotCreate(domain, xml string, flags SnapshotFlags) error
	// Snapshots returns the XML of each snapshot that libvirt knows.
	Snapshots(domain string) ([]string, error)
	// SnapshotForget removes what libvirt knows of a snapshot and touches no disk.
	SnapshotForget(domain, name string) error

	// BlockCommit begins to merge the topmost layer of a disk into the one below.
	BlockCommit(domain, target string) error
	// BlockJobPivot ends a job that is ready: the disk then uses its result.
	BlockJobPivot(domain, target string) error

	// BlockCopy begins to copy a disk to what the XML of another says, which is there
	// already. Its success says that a job was begun, not that it lives.
	BlockCopy(domain, target, xml string, o CopyOptions) error
	// BlockJob tells of the job on a disk.
	BlockJob(domain, target string) (Job, error)
	// BlockJobSwitch and BlockJobCancel ask for the end of a job, with its result or
	// without it, and return when it was asked for.
	BlockJobSwitch(domain, target string) error
	BlockJobCancel(domain, target string) error

	// What follows goes past libvirt to QEMU itself, for where libvirt is wrong about
	// it. Nodes lists what QEMU has open, NodeJobs its jobs. MirrorNode copies a node
	// to another one, with the guest's writes going to both; CompleteNodeJob has what
	// used the first use the second. EndNodeJob gives a job up, and then takes away
	// what is left of it; each needs a call. DeleteNode closes a node that nothing uses.
	Nodes(domain string) ([]Node, error)
	NodeJobs(domain string) ([]NodeJob, error)
	MirrorNode(domain, job, from, to string) error
	CompleteNodeJob(domain, job string) error
	EndNodeJob(domain, job string) error
	DeleteNode(domain, node string) error

	// Listen calls handle for every event from now on. handle must be fast. It
	// is called once per connection.
	Listen(handle func(Event)) error
	// Lost is closed when the connection is known to be dead, and by Close.
	Lost() <-chan struct{}
	Close() error
}

// Half is one half of a domain.
type Half uint8

const (
	Live   Half = iota + 1 // the running domain
	Config                 // the persistent definition
)

// String names the half.
func (h Half) String() string { return [...]string{"", "running domain", "definition"}[h] }

// SnapshotFlags say how a snapshot is made. Every one is of disks only, and of
// all disks or of none.
type SnapshotFlags struct {
	NoMetadata    bool // libvirt forgets the snapshot once it is made
	ReuseExternal bool // the overlays are there already
}

// CopyOptions say how a disk is copied.
type CopyOptions struct {
	Bandwidth   uint64 // bytes per second; 0: no limit
	Synchronous bool   // writes of the guest wait for both sides
}

// Job is a block job.
type Job struct {
	Copy        bool // false: there is none, or one of another kind
	Done, Total int64
}

// Node is an image, or a layer of one, that QEMU has open.
type Node struct {
	Name   string // "libvirt-INDEX-format" or "-storage", with the index of libvirt's XML
	Driver string
	File   string // a path, an address, or "json:" and both
	Device string // QEMU's path of the device whose top node it is, which contains its alias; "": none
}

// NodeJob is a job of QEMU's.
type NodeJob struct {
	ID    string
	Ready bool
}

// Run is what a domain is doing.
type Run uint8

const (
	Off Run = iota + 1
	Running
	Paused
	Crashed
	ShuttingDown
)

// Domain is a domain as libvirt lists it.
type Domain struct {
	UUID, Name string
	Run        Run
	Reason     string // of a pause, where libvirt says one
	Persistent bool
}

// EventKind is the kind of an event.
type EventKind uint8

const (
	Changed       EventKind = iota + 1 // anything about the domain
	DeviceRemoved                      // the guest gave the device back
	RemovalFailed                      // the guest refused to
	CopyFailed                         // a copy of a disk ended with an error
)

// Event is something that happened to a domain.
type Event struct {
	Kind   EventKind
	Domain string // its UUID; empty: any
	Device string // the alias, for DeviceRemoved and RemovalFailed; the target, for CopyFailed
	Text   string // for CopyFailed: what the hypervisor says; it says it in one event of several
}

// Code is libvirt's error number.
type Code int

// The codes that the adapter decides on, with libvirt's numbers.
const (
	CodeInternal             Code = 1
	CodeNoSupport            Code = 3
	CodeInvalidArgument      Code = 8
	CodeOperationFailed      Code = 9
	CodeOperationDenied      Code = 29
	CodeSystem               Code = 38
	CodeRPC                  Code = 39
	CodeNoDomain             Code = 42
	CodeAuthFailed           Code = 45
	CodeOperationInvalid     Code = 55
	CodeConfigUnsupported    Code = 67
	CodeOperationTimeout     Code = 68
	CodeNoDomainSnapshot     Code = 72
	CodeArgumentUnsupported  Code = 74
	CodeAuthCancelled        Code = 79
	CodeBlockCopyActive      Code = 83
	CodeOperationUnsupported Code = 84
	CodeAgentUnresponsive    Code = 86
	CodeResourceBusy         Code = 87
	CodeAccessDenied         Code = 88
	CodeAuthUnavailable      Code = 94
	CodeAgentUnsynced        Code = 97
	CodeDeviceMissing        Code = 99
	CodeAgentTimeout         Code = 112
	CodeAgentFailed          Code = 113
)

// Error is libvirt's error.
type Error struct {
	Code   Code
	Remote bool // it comes from the way to libvirt, not from the hypervisor
	Text   string
}

// Error prints libvirt's text and number.
func (e *Error) Error() string { return fmt.Sprintf("libvirt: %s (error %d)", e.Text, e.Code) }

// Errorf returns an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}
