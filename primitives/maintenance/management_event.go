// SPDX-License-Identifier: Apache-2.0

package maintenance

import "time"

// ManagementEvent is what can happen to a device, as management sees it.
type ManagementEvent interface{ managementEvent() }

// Prepare adds an intent, or changes it by a higher revision. A repeat is success.
type Prepare struct {
	Intent Intent
	Plan   string // digest of the plan as it is now; looked at where the intent names one
}

// End takes an intent back: cancel before the device is in maintenance, end
// then. With no ID it is the only intent; after a failed return it tries again.
type End struct {
	ID string
	By string
}

// Extend sets new deadlines of an intent, counted from now; 0 leaves one as it is,
// and less than 0 takes the limit away.
type Extend struct {
	ID       string
	By       string
	Respond  time.Duration
	Drain    time.Duration
	Expected time.Duration
}

// Overrule stops waiting for a use or a host.
type Overrule struct{ Override Override }

// GrantUse lets one use in though the gate is closed.
type GrantUse struct{ Grant Grant }

// Reported is a report that came in.
type Reported struct{ Report Report }

// HostJoined puts a host on the roster, or says that its agent started anew. Each
// agent start joins before its reports count: agent starts have no order of their own.
type HostJoined struct {
	Host       string
	Boot       string
	AgentStart string
	By         string
}

// HostLeft takes a host off the roster; a person's deed, never a time-out's.
type HostLeft struct {
	Host string
	By   string
}

// StorageFenced says that the storage itself refuses a host, or, with Lifted, that it does so no more.
type StorageFenced struct {
	Host     string
	By       string
	Evidence string
	Lifted   bool
}

// Failover says that somebody else manages from now on.
type Failover struct {
	Term uint64
	By   string
}

// Reloaded says that management loaded this record: acknowledgements are asked for again.
type Reloaded struct{}

func (Prepare) managementEvent()       {}
func (End) managementEvent()           {}
func (Extend) managementEvent()        {}
func (Overrule) managementEvent()      {}
func (GrantUse) managementEvent()      {}
func (Reported) managementEvent()      {}
func (HostJoined) managementEvent()    {}
func (HostLeft) managementEvent()      {}
func (StorageFenced) managementEvent() {}
func (Failover) managementEvent()      {}
func (Reloaded) managementEvent()      {}
func (Elapsed) managementEvent()       {}

// ManagementAction is what the caller does after it made the Management durable.
type ManagementAction interface{ managementAction() }

// Send sends an order to a host. Losing it does no harm.
type Send struct {
	Host  string
	Order Order
}

func (Send) managementAction()  {}
func (Audit) managementAction() {}
