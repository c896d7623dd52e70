// SPDX-License-Identifier: Apache-2.0

// Package device keeps the configured devices: it opens, watches and closes
// them, and adds, changes and removes them at run time.
package device
