// SPDX-License-Identifier: Apache-2.0

package maintenance

// Step takes an event. The caller makes h durable, with the Audit lines among the
// actions, and carries out the others afterwards.
func (h *Host) Step(e HostEvent) []HostAction { return nil }

// Resume returns the actions that were under way, to be carried out after a
// restart; those that ended meanwhile are told by their events.
func (h *Host) Resume() []HostAction { return nil }

// Report tells management all of it. uses are the caller's of now.
func (h *Host) Report(uses []Use) Report { return Report{} }

// Door returns what admission needs to know, for the caller's journal.
func (h *Host) Door() Door { return Door{} }
