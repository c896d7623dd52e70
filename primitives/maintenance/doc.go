// SPDX-License-Identifier: Apache-2.0

// Package maintenance is the protocol by which a storage device goes into
// maintenance and comes back: every host that uses it is told beforehand, every
// use acknowledges or objects, the device is fenced, serviced, verified and
// returned.
//
// It holds both sides as pure state machines: events in, new state and actions
// out. There is no I/O, no clock and no goroutine in it. [Host] is one device on
// one host, kept by an agent; [Management] is one device, kept by whoever manages
// it: a server for many hosts, or the agent itself where there is none. The
// caller makes the state durable before it carries out the actions, and may lose,
// repeat and reorder every message.
//
// The two sides agree by stamps. A [Stamp] grows with every change of what is
// wanted of a device; a [Host] follows only greater ones, and an acknowledgement
// counts only for the stamp, host, boot and set of uses that it names.
package maintenance
