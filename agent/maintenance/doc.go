// SPDX-License-Identifier: Apache-2.0

// Package maintenance takes this host's devices into maintenance and back. It
// carries out what the protocol in primitives/maintenance decides: it tells every
// use, sees the disks moved, detached or paused as their policies say, fences the
// device, verifies what comes back, and writes down who wanted what.
//
// Each device has a host's half, which follows orders, and where no outside
// manager has enrolled this host the managing half too. Both lie in the journal
// and are written before anything is done; after a crash what was to be done is
// derived from them again. The gate itself is the device's door in the journal,
// asked by [device.Admit] in the transaction that records a use.
package maintenance
