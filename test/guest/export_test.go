// SPDX-License-Identifier: Apache-2.0

package guest

// What the tests of this package look into.
var (
	ModuleOrder  = moduleOrder
	ParseDepends = parseDepends
	Cached       = cached
)
