// SPDX-License-Identifier: Apache-2.0

// Package primitives is the one joint between storage and hypervisors: the
// words, contracts and errors that storage drivers and hypervisor adapters both
// know. It imports the standard library and nothing else, so that neither side
// can reach the other through it.
//
// # How a device is used
//
// A [Driver] opens a device and returns a [Backend]. A backend holds volumes and
// snapshots, each named by a [URI]. Creating is writing: [Backend.Write] with
// Create returns a [Writer], and the volume exists once [Writer.Commit] returned.
// [Backend.Delink] takes a name away without touching the data and returns a
// [Tombstone]; only a tombstone can be destroyed, so no single call can lose a
// live volume. What only some backends can do is a member of [Facets] that is
// nil where it is not offered.
//
// # Reaching the bytes from a guest
//
// [Mapper.Map] makes a volume reachable on this host and answers with a
// [Mapping], plain data that a hypervisor adapter turns into a disk.
// [Mapper.Activate] is the fast second half in which a second writer is refused;
// the two are apart because live migration needs the slow half done beforehand.
//
// # Rules that hold for every call
//
//   - Every error is, or wraps, an [*Error] with a [Code] that says what the
//     caller can do.
//   - [Op.ID] makes a repeat safe: the same id and arguments give the same
//     outcome; the same id with other arguments is CodeConflict.
//   - After the context ends an operation is done, absent, or visible as
//     [Incomplete] or [Pending]. It is never unknown.
//   - All sizes and offsets are bytes.
//   - Calls on different URIs may run at once. For the same URI a driver answers
//     CodeConflict rather than corrupt anything, because an agent on another host
//     may be at work.
package primitives
