// SPDX-License-Identifier: Apache-2.0

package maintenance

import protocol "github.com/tenon-storage/tenon/primitives/maintenance"

type (
	Situation = situation
	Facts     = facts
	Target    = target
)

func Decide(s Situation) []PlanUse { return decide(s) }

func DigestOf(device string, i protocol.Intent, uses []PlanUse) string {
	return digestOf(device, i, uses)
}

func Differences(a, b []PlanUse) []string { return differences(a, b) }
