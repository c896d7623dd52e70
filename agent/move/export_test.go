// SPDX-License-Identifier: Apache-2.0

package move

import (
	"time"

	"github.com/tenon-storage/tenon/hypervisor"
)

// View is what a decision about one disk is made of.
type View = view

// Refuse says why a disk cannot move.
func Refuse(v View) error { return refuse(v) }

// FormatOf is the format that the target gets.
func FormatOf(v View) string { return string(v.format()) }

// Judge decides how a switch came out.
func Judge(finished error, st hypervisor.MoveStatus, look error, attempts, begun int) string {
	return [...]string{"unclear", "arrived", "remained", "given up", "anew"}[judge(finished, st, look, attempts, begun)]
}

// The limits of a switch.
const (
	MostAttempts = mostAttempts
	MostBegun    = mostBegun
)

// Pace is what a run of looks at a copy calls for.
func Pace(looks []hypervisor.MoveStatus, every, stall time.Duration) (steps []string) {
	var p pace
	now := time.Unix(0, 0)
	for _, st := range looks {
		steps = append(steps, [...]string{"wait", "converge", "stuck"}[p.look(st, now, stall)])
		now = now.Add(every)
	}
	return steps
}
