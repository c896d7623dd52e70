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
//
// # What callers keep
//
//   - [Door] is stored where uses are recorded, in the transaction of each Step, and
//     asked in the transaction that records a use, before the device is opened.
//     Everything that opens the device comes through it, incoming migration too.
//   - The uses that an event carries are those of the transaction it is stepped in.
//   - The actions of one device are carried out one after another, in order; what is
//     done about several uses goes on side by side. After a crash [Host.Resume],
//     which is among what [Restarted] returns, has what was under way.
//   - Each start of an agent is told to its Host by [Restarted] and [UsesSeen], and to
//     management by [HostJoined]: reports of an agent that did not join do not count.
//   - Both machines are told of time by [Elapsed], about once a second, by a clock
//     that does not jump. The time in which the caller did not run is told too.
//
// # What holds
//
// The tests look at these after each step of a million random schedules, and of
// every schedule of a small world; each has machines that break it.
//
//   - I1: a device in maintenance is open on no host, and no host has a use of it.
//   - I2: a fenced host has no live use.
//   - I3: the stamp of a host never decreases, and is never ahead of management's.
//   - I4: a device in service is fenced on no host of its epoch.
//   - I5: an answer or a report counts only for its epoch, boot, agent and set of uses.
//   - I6: who came in past a closed gate has a grant.
//   - I7: no device is fenced over an objection that nobody overruled.
//   - I9: a fence ends only by an order of a higher epoch.
//   - I11: who is cut off is named in the journal first, with who allowed it.
//   - L1: every device can come back. L2: with willing clients maintenance is reached.
//     L3: with an unwilling one the device is blocked, and names it.
//
// I8 and I10, that a moved disk is written in one place and released only when its
// new place is in the configuration, are whose who move disks.
package maintenance
