// SPDX-License-Identifier: Apache-2.0

// Package mockmanager is a management server for those who write clients of it,
// in the manner of the mock event services of clouds: it keeps the real state
// machine of primitives/maintenance for each device, serves the real session,
// and on demand loses, repeats, reorders and delays messages, cuts sessions,
// forgets what it heard and hands over to a later term. Every message that
// passes is written as one line of JSON, and what was written can be played back.
//
// It decides nothing by itself: a Go test or a script says what happens.
package mockmanager
