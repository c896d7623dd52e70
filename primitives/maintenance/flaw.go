// SPDX-License-Identifier: Apache-2.0

package maintenance

// flaw is a set of rules that a machine leaves out. It is empty but in tests, which
// show by it that each rule is needed, and that breaking it is seen.
type flaw uint32
