// SPDX-License-Identifier: Apache-2.0

// Package move takes disks of running domains to other devices, with their bytes,
// while their guests go on.
//
// A disk keeps its ID throughout, and so its use keeps its own: what changes is
// the URI in the record, in one transaction, once the hypervisor shows the disk on
// its new volume wherever the domain has it. Until then the disk's use names the
// source and a use of the operation's own, which had to pass the target's gate,
// the target; from then on it is the other way round, until the source is let go.
// Both mappings name the disk's use as their consumer, so nothing has to be mapped
// anew at the switch; whoever releases one of them goes by its URI as well.
//
// The source is never destroyed: it becomes a tombstone that is kept for a while.
package move
