// SPDX-License-Identifier: Apache-2.0

package kvm

// NewOver returns an adapter over a fake.
var NewOver = newOver
