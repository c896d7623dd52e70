// SPDX-License-Identifier: Apache-2.0

// Package volume makes, changes and removes volumes, and streams their bytes.
package volume
