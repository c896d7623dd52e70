// SPDX-License-Identifier: Apache-2.0

package rpc_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/tenon-storage/tenon/agent/rpc"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
)

func TestLogNeverShowsASecret(t *testing.T) {
	const secret = "hunter2-hunter2"
	request := &tenonv1.AddDeviceRequest{
		RequestId: "r-1", Name: "fast", Driver: "rbd", Properties: map[string]string{"pool": "vms"},
		Secrets: map[string][]byte{"key": []byte(secret), "other": []byte(secret)},
	}
	text := rpc.Loggable(request)
	for _, kept := range []string{"r-1", "fast", "vms", "key", "other"} {
		if !strings.Contains(text, kept) {
			t.Errorf("log of the request = %s, want it to show %q", text, kept)
		}
	}
	// Bytes are printed as base64, so neither form may be there.
	for _, leak := range []string{secret, "aHVudGVyMi1odW50ZXIy"} {
		if strings.Contains(text, leak) {
			t.Errorf("log of the request = %s, want no secret in it", text)
		}
	}
	if string(request.GetSecrets()["key"]) != secret {
		t.Errorf("after logging the secret is %q, want the request unchanged", request.GetSecrets()["key"])
	}
}

func TestOneLinePerCallSaysWhoAndHow(t *testing.T) {
	var text strings.Builder
	log := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))
	call(t, &failing{err: nil}, log)
	lines := strings.Split(strings.TrimSpace(text.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("log = %s, want one line for each of two calls", text.String())
	}
	for _, want := range []string{`msg="call finished"`, "method=HostService/GetHost", "caller=", "status=OK", "took="} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("log line = %s, want %s in it", lines[0], want)
		}
	}
}
