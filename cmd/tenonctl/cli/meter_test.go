// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenon-storage/tenon/cmd/tenonctl/cli"
)

func TestLinesComeAtEachTenthButNeitherTooSoonNorTooLate(t *testing.T) {
	var out strings.Builder
	clock := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	meter := cli.NewLines(&out, func() time.Time { return clock })
	for _, step := range []struct {
		after time.Duration
		done  int64
	}{
		{0, 10},                        // no line: quick work is not worth one
		{time.Second, 30},              // too soon
		{2 * time.Second, 40},          // a line
		{time.Second, 60},              // too soon after it
		{2 * time.Second, 61},          // a line, for the tenths since
		{3 * time.Second, 62},          // no new tenth
		{8 * time.Second, 63},          // a line, because none came for long
		{2500 * time.Millisecond, 100}, // a line
	} {
		clock = clock.Add(step.after)
		meter.Bytes("copy", step.done<<20, 100<<20)
	}
	meter.Away()
	meter.Away()
	want := "copy: 40% (40 MiB of 100 MiB)\ncopy: 61% (61 MiB of 100 MiB)\ncopy: 63% (63 MiB of 100 MiB)\ncopy: 100% (100 MiB of 100 MiB)\n" +
		"tenond went away; waiting for it to come back\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}
