// SPDX-License-Identifier: Apache-2.0

// Package fake is a libvirt for unit tests that keeps the behaviours of the real
// one that matter to the adapter: detach is a request, a stopped QEMU blocks,
// events can get lost. Its domains are libvirt's XML and nothing else; disks
// have no content.
package fake

import (
	"fmt"
	"sync"
	"time"

	"libvirt.org/go/libvirtxml"

	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
)

// lockWait is how long libvirt waits for a domain that another call holds.
const lockWait = 30 * time.Second

// agentSync is how long libvirt waits for a guest agent to show that it hears.
const agentSync = 5 * time.Second

// Manners are how a guest behaves.
type Manners struct {
	Deaf       bool          // it does not hear requests to give a device back
	Refuses    bool          // it says no to them
	Delay      time.Duration // before it gives a device back
	LoseEvents bool          // libvirt sends none
	Early      bool          // events come before the call that they follow from returns
	NoAgent    bool
	HungAgent  bool // the agent does not answer
	FreezeFail bool // the agent fails to freeze, having frozen something
}

// Libvirt is a fake libvirt with its domains.
type Libvirt struct {
	mu      sync.Mutex // guards what follows, and every domain
	domains map[string]*domain
	conns   map[*Conn]bool
	away    error
	opened  int
	files   func(path string) error // how a missing image fails; nil: none is missing
	sync    time.Duration           // how long a hung guest agent is waited for
	looking chan struct{}           // not nil: libvirt looks at QEMU until it is closed
}

type domain struct {
	uuid, name   string
	live, config *libvirtxml.Domain
	run          virt.Run
	reason       string
	number       int
	manners      Manners
	frozen       int
	snapshots    []*libvirtxml.DomainSnapshot
	capacity     map[string]int64
	leaving      map[string]bool // aliases that the guest was asked for and did not hear
	held         chan struct{}   // one token: the right to change the domain
	stalled      chan struct{}   // not nil: QEMU is stopped until it is closed
	since        time.Time       // since when a call waits for the stopped QEMU
	probes       int             // how often it was asked whether it is busy
	failures     map[string]error
	stubborn     bool // its definition does not follow what happens to disks
	copies       map[string]*copying
	outruns      bool     // its guest writes as fast as any copy
	holdsJobs    bool     // jobs that were asked to end do not
	endings      []func() // of such jobs
	lost         map[string]*lost
	indexes      uint // of images opened so far
	hurts        int  // how often it pauses again after a resume
}

// New returns a libvirt without domains.
func New() *Libvirt {
	return &Libvirt{domains: map[string]*domain{}, conns: map[*Conn]bool{}, sync: agentSync}
}

// SyncWithin sets how long a guest agent that hangs is waited for.
func (l *Libvirt) SyncWithin(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sync = d
}

// CheckFiles makes attaching fail as check fails.
func (l *Libvirt) CheckFiles(check func(path string) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files = check
}

// Open is a virt.Opener.
func (l *Libvirt) Open(string) (virt.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.opened++
	if l.away != nil {
		return nil, l.away
	}
	c := &Conn{l: l, lost: make(chan struct{})}
	l.conns[c] = true
	return c, nil
}

// Opened tells how often a connection was tried.
func (l *Libvirt) Opened() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opened
}

// Probed tells how often a domain was asked whether it is busy.
func (l *Libvirt) Probed(uuid string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.domains[uuid].probes
}

// Look makes libvirt look at QEMU, as one does that has just started, until done is
// called.
func (l *Libvirt) Look() (done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	looking := make(chan struct{})
	l.looking = looking
	return sync.OnceFunc(func() { close(looking) })
}

// Away makes libvirt fail with err, and lose its connections; nil brings it back.
func (l *Libvirt) Away(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = err
	for c := range l.conns {
		c.lose()
	}
	clear(l.conns)
}

// Define defines a domain from XML and starts it if asked to.
func (l *Libvirt) Define(text string, start bool) error {
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	d := &domain{
		uuid: x.UUID, name: x.Name, config: &x, run: virt.Off, held: make(chan struct{}, 1),
		capacity: map[string]int64{}, leaving: map[string]bool{}, failures: map[string]error{},
	}
	d.held <- struct{}{}
	l.domains[x.UUID] = d
	if start {
		d.start(l)
	}
	return nil
}

// Behave sets a guest's manners. One that begins to hear gives back at once what
// it was asked for.
func (l *Libvirt) Behave(uuid string, m Manners) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.domains[uuid]
	d.manners = m
	d.showAgent()
	if m.Deaf || m.Refuses {
		return
	}
	for alias := range d.leaving {
		l.remove(d, alias)
	}
}

// Undefine makes a running domain transient.
func (l *Libvirt) Undefine(uuid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.domains[uuid].config = nil
}

// Forget makes a guest forget what it was asked for, as one that boots does.
func (l *Libvirt) Forget(uuid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.domains[uuid].leaving)
}

// KeepDefinition makes a libvirt that changes a running domain only.
func (l *Libvirt) KeepDefinition(uuid string, keep bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.domains[uuid].stubborn = keep
}

// Alias returns the alias of a disk by its serial, in either half.
func (l *Libvirt) Alias(uuid, serial string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.domains[uuid]
	for _, x := range []*libvirtxml.Domain{d.live, d.config} {
		if x == nil {
			continue
		}
		for _, disk := range x.Devices.Disks {
			if disk.Serial == serial && disk.Alias != nil {
				return disk.Alias.Name
			}
		}
	}
	return ""
}

// Fail makes the next call of that name on a domain fail. A name is the
// method's; with what has halves, the half's name follows.
func (l *Libvirt) Fail(uuid, name string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.domains[uuid].failures[name] = err
}

// Pause pauses a domain for a reason, or resumes it where there is none.
func (l *Libvirt) Pause(uuid, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.domains[uuid]
	d.run, d.reason = virt.Paused, reason
	if reason == "" {
		d.run = virt.Running
	}
	l.tell(d, virt.Event{Kind: virt.Changed})
}

// Stall stops a domain's QEMU until resume is called.
func (l *Libvirt) Stall(uuid string) (resume func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.domains[uuid]
	stalled := make(chan struct{})
	d.stalled = stalled
	return sync.OnceFunc(func() {
		l.mu.Lock()
		d.stalled = nil
		l.mu.Unlock()
		close(stalled)
	})
}

// Start starts a domain.
func (l *Libvirt) Start(uuid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.domains[uuid].start(l)
}

// Kill ends a domain as a crash of its QEMU does.
func (l *Libvirt) Kill(uuid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop(l.domains[uuid])
}

// Frozen tells how many of a guest's file systems are frozen.
func (l *Libvirt) Frozen(uuid string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.domains[uuid].frozen
}

// Emit sends an event, as a late one of libvirt's.
func (l *Libvirt) Emit(e virt.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tell(l.domains[e.Domain], e)
}

// start makes the live half from the definition; mu is held.
func (d *domain) start(l *Libvirt) {
	live := clone(d.config)
	d.number++
	live.ID = &d.number
	for i := range live.Devices.Disks {
		d.capacity[live.Devices.Disks[i].Target.Dev] = diskSize
		d.index(live.Devices.Disks[i].Source)
	}
	d.live, d.run, d.reason, d.manners = live, virt.Running, "", Manners{}
	d.showAgent()
	l.tell(d, virt.Event{Kind: virt.Changed})
}

// stop ends the live half; mu is held.
func (l *Libvirt) stop(d *domain) {
	d.live, d.run, d.frozen, d.copies, d.lost, d.hurts = nil, virt.Off, 0, nil, nil, 0
	clear(d.leaving)
	if d.config == nil {
		delete(l.domains, d.uuid)
	}
	l.tell(d, virt.Event{Kind: virt.Changed})
}

// showAgent keeps the agent's channel in the live half as the guest behaves.
func (d *domain) showAgent() {
	if d.live == nil {
		return
	}
	state := "connected"
	if d.manners.NoAgent {
		state = "disconnected"
	}
	for i := range d.live.Devices.Channels {
		if t := d.live.Devices.Channels[i].Target; t != nil && t.VirtIO != nil {
			t.VirtIO.State = state
		}
	}
}

// tell sends an event to every connection, from another goroutine as libvirt
// does, which may be faster than the one that called; mu is held.
func (l *Libvirt) tell(d *domain, e virt.Event) {
	e.Domain = d.uuid
	if d.manners.LoseEvents {
		return
	}
	for c := range l.conns {
		switch handle := c.handle; {
		case handle == nil:
		case d.manners.Early:
			handle(e)
		default:
			go handle(e)
		}
	}
}

// remove takes a device out of the live half; mu is held.
func (l *Libvirt) remove(d *domain, alias string) {
	delete(d.leaving, alias)
	if d.live == nil {
		return
	}
	for i, disk := range d.live.Devices.Disks {
		if disk.Alias != nil && disk.Alias.Name == alias {
			d.live.Devices.Disks = append(d.live.Devices.Disks[:i:i], d.live.Devices.Disks[i+1:]...)
			l.tell(d, virt.Event{Kind: virt.DeviceRemoved, Device: alias})
			return
		}
	}
}

func clone(d *libvirtxml.Domain) *libvirtxml.Domain {
	text, err := d.Marshal()
	if err != nil {
		panic(fmt.Sprintf("fake: %v", err))
	}
	var out libvirtxml.Domain
	if err := out.Unmarshal(text); err != nil {
		panic(fmt.Sprintf("fake: %v", err))
	}
	return &out
}

// DomainXML describes a small domain: eight free slots, a virtio-scsi controller
// and a guest agent.
func DomainXML(uuid, name string) string {
	ports := ""
	for i := 1; i <= 8; i++ {
		ports += fmt.Sprintf("<controller type='pci' index='%d' model='pcie-root-port'><address type='pci' domain='0' bus='0' slot='%d' function='0'/></controller>", i, i)
	}
	return fmt.Sprintf(`<domain type='qemu'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>128</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>
<controller type='pci' index='0' model='pcie-root'/>%s
<controller type='scsi' index='0' model='virtio-scsi'/>
<channel type='unix'><source mode='bind'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
</devices></domain>`, name, uuid, ports)
}
