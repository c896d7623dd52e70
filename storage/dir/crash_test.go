// SPDX-License-Identifier: Apache-2.0

package dir_test

// childAct names what this test binary does when the tests start it to be killed.
const childAct = "TENON_DIR_ACT"

func child(string) int { return 0 }
