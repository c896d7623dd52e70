// SPDX-License-Identifier: Apache-2.0

package primitives_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/primitives"
)

func TestErrorsAreAskedForTheirCode(t *testing.T) {
	cause := errors.New("cause")
	wrapped := fmt.Errorf("attach: %w", &primitives.Error{Code: primitives.CodeInUse, Err: cause})
	if !errors.Is(wrapped, primitives.CodeInUse) || errors.Is(wrapped, primitives.CodeExists) {
		t.Errorf("errors.Is does not tell the code of %v", wrapped)
	}
	if !errors.Is(wrapped, cause) {
		t.Errorf("%v hides its cause", wrapped)
	}
	for _, c := range []struct {
		err  error
		want primitives.Code
	}{
		{nil, 0},
		{wrapped, primitives.CodeInUse},
		{primitives.CodeNoDelta, primitives.CodeNoDelta},
		{fmt.Errorf("x: %w", context.Canceled), primitives.CodeCancelled},
		{context.DeadlineExceeded, primitives.CodeUnavailable},
		{cause, primitives.CodeInternal},
	} {
		if got := primitives.CodeOf(c.err); got != c.want {
			t.Errorf("CodeOf(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}

func TestErrorTextNamesEverythingOnce(t *testing.T) {
	e := (&primitives.Error{
		Code: primitives.CodeDependents, Op: "destroy", URI: primitives.URI{Device: "d", Volume: "v", Snapshot: "s"},
		Err: errors.New("clones need it"),
	}).By(primitives.Blocker{Kind: "volume", Name: "d/c1"}, primitives.Blocker{Kind: "volume", Name: "d/c2"})
	const want = "destroy d/v@s: has dependents: clones need it: by volume d/c1, volume d/c2"
	if got := e.Error(); got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
}

func TestEveryCodeHasAnOwnNameAndRetryClass(t *testing.T) {
	seen := map[string]primitives.Code{}
	for c := primitives.CodeInvalid; c <= primitives.CodeInternal; c++ {
		if other, dup := seen[c.String()]; dup || strings.HasPrefix(c.String(), "code ") {
			t.Errorf("code %d is called %q like %d", c, c, other)
		}
		seen[c.String()] = c
		_ = c.Retry().String()
	}
	for c, want := range map[primitives.Code]primitives.Retry{
		primitives.CodeInvalid: primitives.RetryNever, primitives.CodeNoSpace: primitives.RetryNever,
		primitives.CodeUnavailable: primitives.RetrySame, primitives.CodeConflict: primitives.RetrySame,
		primitives.CodeInUse: primitives.RetryAfterChange, primitives.CodeIncomplete: primitives.RetryResume,
		primitives.CodeNoOffload: primitives.RetryFallback, primitives.CodeFenced: primitives.RetryNever,
	} {
		if got := c.Retry(); got != want {
			t.Errorf("%v.Retry() = %v, want %v", c, got, want)
		}
	}
}

func TestSecretsNeverShowTheirValue(t *testing.T) {
	const canary = "hunter2-canary"
	s := primitives.NewSecrets(map[string][]byte{"token": []byte(canary)})
	type holder struct{ S primitives.Secrets }
	marshalled, err := json.Marshal(holder{s})
	if err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("opened", "secrets", s, "holder", holder{s})
	slog.New(slog.NewTextHandler(&logged, nil)).Info("opened", "secrets", s, "holder", holder{s})
	for how, shown := range map[string]string{
		"%v": fmt.Sprintf("%v", s), "%+v": fmt.Sprintf("%+v", holder{s}), "%#v": fmt.Sprintf("%#v", s),
		"%s": fmt.Sprintf("%s", s), "%x": fmt.Sprintf("%x", s), "%d": fmt.Sprintf("%d", s),
		"pointer": fmt.Sprintf("%+v", &s), "json": string(marshalled), "log": logged.String(),
	} {
		for _, leak := range []string{canary, fmt.Sprintf("%x", canary), "104 117 110"} {
			if strings.Contains(shown, leak) {
				t.Errorf("%s shows the secret: %s", how, shown)
			}
		}
	}
	if v, ok := s.Get("token"); !ok || string(v) != canary {
		t.Errorf("Get = %q, %v, want the value", v, ok)
	}
	v, _ := s.Get("token")
	v[0] = 'X'
	if again, _ := s.Get("token"); string(again) != canary {
		t.Error("a caller changed the secret through Get")
	}
}

func TestAcceptableTakesOnlyItsShape(t *testing.T) {
	file := primitives.Mapping{Form: primitives.FormFile, File: &primitives.FileMap{Format: primitives.FormatQcow2}}
	nbd := primitives.Mapping{Form: primitives.FormNetwork, Network: &primitives.NetworkMap{Protocol: "nbd"}}
	block := primitives.Mapping{Form: primitives.FormBlock, Block: &primitives.BlockMap{}}
	for name, c := range map[string]struct {
		a    primitives.Acceptable
		m    primitives.Mapping
		want bool
	}{
		"any file":       {primitives.Acceptable{Form: primitives.FormFile}, file, true},
		"other format":   {primitives.Acceptable{Form: primitives.FormFile, Format: primitives.FormatRaw}, file, false},
		"other form":     {primitives.Acceptable{Form: primitives.FormBlock}, file, false},
		"protocol":       {primitives.Acceptable{Form: primitives.FormNetwork, Protocol: "nbd"}, nbd, true},
		"other protocol": {primitives.Acceptable{Form: primitives.FormNetwork, Protocol: "rbd"}, nbd, false},
		"block":          {primitives.Acceptable{Form: primitives.FormBlock}, block, true},
	} {
		if got := c.a.Takes(c.m); got != c.want {
			t.Errorf("%s: Takes = %v, want %v", name, got, c.want)
		}
	}
}
