// SPDX-License-Identifier: Apache-2.0

// Package attach hands volumes to domains as disks and takes them back. It is
// where storage meets hypervisor: it keeps the record of uses true to what
// devices and domains show.
package attach
