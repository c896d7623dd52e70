// SPDX-License-Identifier: Apache-2.0

package kvm_test

import (
	"testing"

	"github.com/tenon-storage/tenon/hypervisor/kvm"
	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/fake"
)

func TestAnIDWinsOverANameThatLooksLikeOne(t *testing.T) {
	l := newFake(t)
	const id, nobodys = "8b1f3f0e-0000-4000-8000-000000000003", "8b1f3f0e-0000-4000-8000-000000000004"
	for other, name := range map[string]string{id: onID, nobodys: "8b1f3f0e-0000-4000-8000-000000000005"} {
		if err := l.Define(fake.DomainXML(other, name), false); err != nil {
			t.Fatal(err)
		}
	}
	a := newAdapter(t, l, kvm.Options{})
	for asked, want := range map[string]string{onID: onID, "8b1f3f0e-0000-4000-8000-000000000005": nobodys} {
		if got, err := a.Domain(t.Context(), asked); err != nil || string(got.ID) != want {
			t.Errorf("Domain(%s) = %s, %v; want %s", asked, got.ID, err, want)
		}
	}
}
