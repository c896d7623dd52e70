// SPDX-License-Identifier: Apache-2.0

//go:build !race

package maintenance_test

const schedules = 1_000_000
