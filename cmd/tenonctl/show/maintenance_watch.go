// SPDX-License-Identifier: Apache-2.0

package show

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

// Phase is a phase in words, such as "in maintenance".
func Phase(p tenonv1.MaintenancePhase) string { return word(p) }

// Impact is an impact in words, such as "io stall".
func Impact(i tenonv1.Impact) string { return word(i) }

// MaintenanceLine is one change of a device, for a watcher.
func MaintenanceLine(m *tenonv1.Maintenance) string {
	parts := []string{m.GetDevice(), word(m.GetPhase()), "gate " + word(m.GetGate())}
	if text := tally(m); text != "" {
		parts = append(parts, text)
	}
	if notes := obstacles(m); len(notes) > 0 {
		parts = append(parts, "waits for "+strings.ReplaceAll(strings.Join(notes, "; "), ";   ", ": "))
	}
	if m.GetFailure() != "" {
		parts = append(parts, oneLine(m.GetFailure()))
	}
	return strings.Join(parts, gap) + "\n"
}

// tally counts uses by what they have answered, in the order of the states.
func tally(m *tenonv1.Maintenance) string {
	if m.GetPhase() == inService {
		return ""
	}
	counts := make(map[tenonv1.UseState]int)
	for _, u := range m.GetUses() {
		counts[u.GetState()]++
	}
	var parts []string
	for n := range len(tenonv1.UseState_name) {
		if c := counts[tenonv1.UseState(n)]; c > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", c, word(tenonv1.UseState(n))))
		}
	}
	return strings.Join(parts, ", ")
}

// The lengths of a use's bar on a terminal that is wide and on one that is not.
const (
	longBar, shortBar = 20, 10
	wideTerminal      = 100
	// longName is the length to which names of users are cut, and those of what
	// they use beyond the bar's length.
	longName = 12
)

// MaintenanceFrame is a device on a terminal: a line for it, and one with a bar
// for each use. No line is wider than the terminal and no frame higher.
func (s Style) MaintenanceFrame(m *tenonv1.Maintenance, now time.Time, width, height int) string {
	head := fmt.Sprintf("%s  %s for %s, gate %s", m.GetDevice(), word(m.GetPhase()), since(m.GetSinceTime(), now), word(m.GetGate()))
	if m.GetDeadlineTime() != nil {
		head += ", left " + left(m.GetDeadlineTime(), now)
	}
	lines := []string{head}
	length := shortBar
	if width >= wideTerminal {
		length = longBar
	}
	t := table{header: []string{"USE", "BY", "STATE", "", ">DONE", ">ETA", "NOTE"}}
	for _, u := range m.GetUses() {
		t.add(cut(used(u), length+longName), cut(or(user(u)), longName), answer(m, u), bar(u, length), done(u), span(u.GetEta()), note(u))
	}
	if len(t.rows) > 0 {
		lines = append(lines, strings.Split(strings.TrimSuffix(t.String(), "\n"), "\n")...)
	}
	for i, o := range obstacles(m) {
		if i == 0 {
			lines = append(lines, "waits for")
		}
		lines = append(lines, "  "+o)
	}
	if m.GetFailure() != "" {
		lines = append(lines, oneLine(m.GetFailure()))
	}
	if most := max(2, height-1); len(lines) > most {
		hidden := len(lines) - most + 1
		lines = append(lines[:most-1], fmt.Sprintf("and %d more lines", hidden))
	}
	for i, l := range lines {
		lines[i] = cut(l, width)
	}
	return strings.Join(lines, "\n") + "\n"
}

// bar draws how far a use is.
func bar(u *tenonv1.MaintenanceUse, length int) string {
	percent := min(100, max(0, u.GetPercent()))
	if u.GetState() == tenonv1.UseState_USE_STATE_READY {
		percent = 100
	}
	filled := int(percent / 100 * float64(length))
	body := strings.Repeat("=", filled)
	if filled < length && percent > 0 {
		body += ">"
	}
	return "[" + body + strings.Repeat(" ", length-len(body)) + "]"
}

// cut shortens a line to what fits; 0 is without limit.
func cut(line string, width int) string {
	if width <= 0 || utf8.RuneCountInString(line) <= width {
		return line
	}
	runes := []rune(line)
	if width <= 3 {
		return string(runes[:width])
	}
	return string(runes[:width-3]) + "..."
}
