// SPDX-License-Identifier: Apache-2.0

// Package storage is the caller's side of storage devices. Drivers implement
// package primitives and hold mechanism only; a [Device] wraps an opened backend
// and does once, for every driver, what each of them would otherwise do
// differently: it enforces the schema, locks, replays, bounds, classifies and
// measures.
//
// # What a Device adds to a backend
//
//   - Properties are checked against the driver's schema before the driver is
//     called, and every call carries the effective ones ([Effective]).
//   - Calls on one object exclude each other where they must ([Device.Busy]).
//   - The same request id gives the same outcome; with other arguments it is
//     refused.
//   - Every error is a *primitives.Error that names the call and the object.
//   - A call ends when its context does, even if the driver does not listen.
//   - Every call is counted and timed ([Device.Stats]).
//
// A Device has the same methods as a backend and is one, so the contract's test
// suite runs on both.
package storage
