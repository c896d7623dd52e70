// SPDX-License-Identifier: Apache-2.0

// Package snapshot takes consistent snapshots of the disks of a domain, and
// reverts volumes to them.
package snapshot
