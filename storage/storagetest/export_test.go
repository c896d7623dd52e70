// SPDX-License-Identifier: Apache-2.0

package storagetest

// What the suite's own test looks at.
var (
	Pattern = pattern
	Word    = word
	Origin  = origin
	Image   = qcow2Image
)
