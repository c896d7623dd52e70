// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one figure beside its peers'. The ratio is tenon's figure over the best
// peer's; a row without peers has an absolute goal, and its ratio is tenon/goal.
type row struct {
	What   string             `json:"what"`
	Unit   string             `json:"unit"`
	Tenon  float64            `json:"tenon"`
	Peers  map[string]float64 `json:"peers"`
	Ratio  float64            `json:"ratio"`
	Goal   float64            `json:"goal"`
	Better string             `json:"better"`
}

// lowerIs returns a row of which less is better. With peers, goal is a ratio.
func lowerIs(what, unit string, tenon float64, peers map[string]float64, goal float64) row {
	r := row{What: what, Unit: unit, Tenon: tenon, Peers: peers, Goal: goal, Better: "lower"}
	if len(peers) == 0 {
		r.Peers = map[string]float64{}
		r.Ratio = tenon / goal
		return r
	}
	best := 0.0
	for _, v := range peers {
		if best == 0 || v < best {
			best = v
		}
	}
	r.Ratio = tenon / best
	return r
}

// met reports whether the goal is reached: an absolute one as a ratio of at
// most 1, one against peers as a ratio of at most the goal.
func (r row) met() bool {
	if len(r.Peers) == 0 {
		return r.Ratio <= 1
	}
	return r.Ratio <= r.Goal
}

// publish prints the table and writes DIR/NAME.json.
func publish(w io.Writer, dir, name string, rows []row) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "%s\tunit\ttenon\tpeers\tratio\tgoal\t\n", name)
	for _, r := range rows {
		var peers []string
		for p, v := range r.Peers {
			peers = append(peers, fmt.Sprintf("%s %.4g", p, v))
		}
		sort.Strings(peers)
		goal := fmt.Sprintf("%.4g %s", r.Goal, r.Unit)
		if len(r.Peers) > 0 {
			goal = fmt.Sprintf("%.4g x", r.Goal)
		}
		verdict := "met"
		if !r.met() {
			verdict = "MISSED"
		}
		fmt.Fprintf(tw, "%s\t%s\t%.4g\t%s\t%.3f\t%s\t%s\n", r.What, r.Unit, r.Tenon, strings.Join(peers, ", "), r.Ratio, goal, verdict)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	data, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".json"), append(data, '\n'), 0o644)
}

// median returns the middle of what was measured.
func median(runs []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(runs))
	return sorted[len(sorted)/2]
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
