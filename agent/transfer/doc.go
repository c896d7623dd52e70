// SPDX-License-Identifier: Apache-2.0

// Package transfer copies volumes and snapshots from device to device.
package transfer
