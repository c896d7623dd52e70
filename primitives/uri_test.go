// SPDX-License-Identifier: Apache-2.0

package primitives_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/primitives"
)

func TestParseURIReadsBothSpellings(t *testing.T) {
	for given, want := range map[string]primitives.URI{
		"tenon://fast":              {Device: "fast"},
		"fast/web01":                {Device: "fast", Volume: "web01"},
		"tenon://fast/web01@monday": {Device: "fast", Volume: "web01", Snapshot: "monday"},
		"fast/über %2F #1":          {Device: "fast", Volume: "über %2F #1"},
		"fast/.hidden":              {Device: "fast", Volume: ".hidden"},
		"fast/-dash":                {Device: "fast", Volume: "-dash"},
	} {
		got, err := primitives.ParseURI(given)
		if err != nil || got != want {
			t.Errorf("ParseURI(%q) = %+v, %v, want %+v", given, got, err, want)
		}
	}
}

func TestParseURIRefusesAndNamesThePart(t *testing.T) {
	for name, c := range map[string]struct{ given, part string }{
		"empty":                     {"", "device"},
		"upper-case device":         {"Fast/a", "device"},
		"device with a dot":         {"a.b/c", "device"},
		"device of 64 bytes":        {strings.Repeat("a", 64) + "/v", "device"},
		"other scheme":              {"rbd://pool/image", "uri"},
		"empty volume":              {"fast/", "volume"},
		"snapshot without volume":   {"fast/@s", "volume"},
		"empty snapshot":            {"fast/v@", "snapshot"},
		"two snapshots":             {"fast/v@a@b", "snapshot"},
		"parent folder":             {"fast/..", "volume"},
		"parent folder as snapshot": {"fast/v@..", "snapshot"},
		"slash":                     {"fast/a/b", "volume"},
		"newline":                   {"fast/a\nb", "volume"},
		"NUL":                       {"fast/a\x00", "volume"},
		"invisible character":       {"fast/a\u200bb", "volume"},
		"not UTF-8":                 {"fast/a\xff", "volume"},
		"300 characters":            {"fast/" + strings.Repeat("v", 300), "volume"},
		"space at the end":          {"fast/a ", "volume"},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := primitives.ParseURI(c.given)
			e, ok := errors.AsType[*primitives.Error](err)
			if !ok || e.Code != primitives.CodeInvalid {
				t.Fatalf("ParseURI(%q) = %+v, %v, want CodeInvalid", c.given, u, err)
			}
			if len(e.Problems) != 1 || e.Problems[0].Prop != c.part {
				t.Errorf("ParseURI(%q) names %+v, want %q", c.given, e.Problems, c.part)
			}
			if strings.ContainsAny(e.Error(), "\n\x00") {
				t.Errorf("ParseURI(%q) prints what it was given raw: %q", c.given, e.Error())
			}
		})
	}
}

func FuzzParseURIReadsBackWhatStringPrints(f *testing.F) {
	for _, s := range []string{"tenon://a/b@c", "a/b", "a", "a/ü@%2F", "tenon://", "a/b@@"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := primitives.ParseURI(s)
		if err != nil {
			return
		}
		for _, printed := range []string{u.String(), u.Short()} {
			again, err := primitives.ParseURI(printed)
			if err != nil || again != u {
				t.Errorf("ParseURI(%q) = %+v, %v, want %+v", printed, again, err, u)
			}
		}
		if strings.ContainsAny(u.Volume+u.Snapshot, "/\x00\n") || u.Volume == ".." {
			t.Errorf("ParseURI(%q) let %+v through", s, u)
		}
	})
}
