// SPDX-License-Identifier: Apache-2.0

package device

import "github.com/tenon-storage/tenon/primitives"

// The kinds of operation of this package.
const (
	KindAdd    = "device.add"
	KindUpdate = "device.update"
	KindRemove = "device.remove"
)

// AddArgs are the arguments of device.add; its result is a Status. Start it with
// Registry.Add, which puts the secrets aside before.
type AddArgs struct {
	Name       string
	Driver     string
	Props      primitives.Props
	SecretsRef string // names the file with the secrets; empty: none
}

// UpdateArgs are the arguments of device.update; its result is a Status. Start
// it with Registry.Update. A property that is not named stays as it is.
type UpdateArgs struct {
	Name       string
	Set        primitives.Props
	Remove     []string
	SecretsRef string // names the file with all secrets of the device after the update; empty: unchanged
	NoSecrets  bool   // the device has no secrets after the update
}

// RemoveArgs are the arguments of device.remove, which forgets a device and
// leaves everything on it as it is. It has no result.
type RemoveArgs struct {
	Name string
}
