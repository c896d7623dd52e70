// SPDX-License-Identifier: Apache-2.0

package maintenance

// flaw is a set of rules that a machine leaves out. It is empty but in tests, which
// show by it that each rule is needed, and that breaking it is seen.
type flaw uint32

// The rules to leave out.
const (
	followsAnyStamp     flaw = 1 << iota // a host takes an older order
	countsStaleAnswers                   // a host counts answers of earlier epochs and boots
	ignoresObjections                    // a host counts who objects as ready
	forcesUnasked                        // a host cuts uses off without a permission
	forcesUnaudited                      // a host cuts uses off without a line in the journal
	unfencesOnRestart                    // a host forgets its fence
	countsStaleReports                   // management counts what hosts said at earlier epochs
	countsOldBoots                       // management counts what hosts said before they booted
	ignoresDigest                        // management does not see that uses changed
	fencesOverObjection                  // management does not hear objections
	skipsFencing                         // management takes drained for fenced
	keepsGrants                          // a host lets granted uses in while it fences
	repeatsNothing                       // management sends each order once
	cancelsInPlace                       // management returns a device within the same epoch
)

func (f flaw) has(rule flaw) bool { return f&rule != 0 }
