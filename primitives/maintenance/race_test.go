// SPDX-License-Identifier: Apache-2.0

//go:build race

package maintenance_test

// schedules are a share only: the race detector has nothing to find in machines
// without goroutines, and makes them several times slower.
const schedules = 100_000
