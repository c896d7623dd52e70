// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tenon-storage/tenon/primitives"
	"github.com/tenon-storage/tenon/primitives/maintenance"
)

// Device is a configured device.
type Device struct {
	Name       string
	Driver     string
	Props      primitives.Props
	SecretsRef string // the file with its secrets; empty: none
	Backend    string // the identity that the device reported when it was added
	Added      time.Time
	Updated    time.Time
}

// Use is one recorded use of a device on this host.
type Use struct {
	ID        string // also the Consumer of the mapping that serves it
	Kind      UseKind
	URI       primitives.URI
	Access    primitives.Access
	Operation string // the operation that admitted it
	Domain    string // UseDisk: the domain's ID
	Disk      string // UseDisk: the disk's ID; empty for an adopted disk
	Target    string // an adopted disk's name in the domain; empty: tenon attached the disk
	Admitted  time.Time
	Stamp     maintenance.Stamp // the device's maintenance stamp at admission; zero where no order was ever seen
	Grant     string            // the grant that let it through a closed gate; empty: the gate was open
	// Dormant says that the disk's domain is off and that its mappings were released
	// for a maintenance: the record stands, but nothing of the device is held.
	Dormant bool
}

// UseKind is what uses a device.
type UseKind string

// The kinds of use.
const (
	UseDisk     UseKind = "disk"     // a disk of a domain; lives until the disk is gone
	UseTransfer UseKind = "transfer" // a copy; lives as long as its operation
	UseStream   UseKind = "stream"   // a caller that reads or writes through the agent; void after a restart
)

// Direction is which way an operation is going.
type Direction string

// The directions.
const (
	Forward Direction = ""
	Back    Direction = "back" // its steps are taken back, the newest first
)

// Operation is an operation as the journal keeps it.
type Operation struct {
	ID          string
	RequestID   string
	Kind        string
	Subject     string
	Caller      string
	Args        json.RawMessage
	State       string
	Step        int       // index of the step whose intent is recorded
	StepName    string    // its name, for people
	Direction   Direction // Back with a final State: something is left to take back
	Left        string    // what could not be done yet after a failure; empty: nothing
	Memory      json.RawMessage
	Claims      []Claim
	CancelAsked bool
	Created     time.Time
	Finished    time.Time
	Failure     json.RawMessage
	Result      json.RawMessage
}

// Claim is a name that an operation holds while it runs.
type Claim struct {
	Name   string
	Shared bool
}

// Tx is one transaction.
type Tx struct {
	tx  *bbolt.Tx
	j   *Journal
	err error // of an iteration that broke off; fails the transaction

	uses       changes[Use]
	operations changes[Operation]
}

// PutDevice writes a device.
func (t *Tx) PutDevice(d Device) error { return put(t, bucketDevices, d.Name, d) }

// Device reads a device; CodeNotFound.
func (t *Tx) Device(name string) (Device, error) {
	return get[Device](t, bucketDevices, "device", name)
}

// Devices reads all devices, in order of name.
func (t *Tx) Devices() ([]Device, error) { return all[Device](t, bucketDevices) }

// DeleteDevice forgets a device; an unknown one is success.
func (t *Tx) DeleteDevice(name string) error { return t.tx.Bucket(bucketDevices).Delete([]byte(name)) }

// PutUse writes a use.
func (t *Tx) PutUse(u Use) error {
	if t.uses == nil {
		t.uses = make(changes[Use])
	}
	if err := put(t, bucketUses, u.ID, u); err != nil {
		return err
	}
	// As it is read later: a time loses its steady clock on the way, for example.
	u, err := t.Use(u.ID)
	t.uses[u.ID] = &u
	return err
}

// Use reads a use; CodeNotFound.
func (t *Tx) Use(id string) (Use, error) { return get[Use](t, bucketUses, "use", id) }

// Uses reads all uses, in order of ID.
func (t *Tx) Uses() ([]Use, error) {
	uses, err := t.j.uses.read(t, bucketUses, t.uses)
	return slices.Clone(uses), err // what is kept is not the caller's to change
}

// EachUse yields all uses, in order of ID, without copying them. An error ends it
// and fails the transaction.
func (t *Tx) EachUse() iter.Seq[Use] { return each(t, bucketUses, &t.j.uses, t.uses) }

// DeleteUse forgets a use; an unknown one is success.
func (t *Tx) DeleteUse(id string) error {
	if t.uses == nil {
		t.uses = make(changes[Use])
	}
	t.uses[id] = nil
	return t.tx.Bucket(bucketUses).Delete([]byte(id))
}

// PutOperation writes an operation and makes it findable by its request id.
func (t *Tx) PutOperation(o Operation) error {
	if err := t.tx.Bucket(bucketRequests).Put([]byte(o.RequestID), []byte(o.ID)); err != nil {
		return err
	}
	if err := put(t, bucketOperations, o.ID, o); err != nil {
		return err
	}
	o, err := t.Operation(o.ID)
	t.change(o.ID, &o)
	return err
}

func (t *Tx) change(id string, o *Operation) {
	if t.operations == nil {
		t.operations = make(changes[Operation])
	}
	t.operations[id] = o
}

// Operation reads an operation; CodeNotFound.
func (t *Tx) Operation(id string) (Operation, error) {
	return get[Operation](t, bucketOperations, "operation", id)
}

// OperationByRequest reads the operation of a request id; CodeNotFound.
func (t *Tx) OperationByRequest(requestID string) (Operation, error) {
	id := t.tx.Bucket(bucketRequests).Get([]byte(requestID))
	if id == nil {
		return Operation{}, primitives.Errorf(primitives.CodeNotFound, "no operation has the request id %q", requestID)
	}
	return t.Operation(string(id))
}

// Operations reads all operations, oldest first.
func (t *Tx) Operations() ([]Operation, error) {
	operations, err := t.j.operations.read(t, bucketOperations, t.operations)
	return slices.Clone(operations), err
}

// EachOperation yields all operations, oldest first, without copying them. An
// error ends it and fails the transaction.
func (t *Tx) EachOperation() iter.Seq[Operation] {
	return each(t, bucketOperations, &t.j.operations, t.operations)
}

// DeleteOperation forgets an operation and its request id.
func (t *Tx) DeleteOperation(o Operation) error {
	t.change(o.ID, nil)
	return errors.Join(
		t.tx.Bucket(bucketRequests).Delete([]byte(o.RequestID)),
		t.tx.Bucket(bucketOperations).Delete([]byte(o.ID)))
}

func put(t *Tx, bucket []byte, key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s/%s to the journal: %w", bucket, key, err)
	}
	return t.tx.Bucket(bucket).Put([]byte(key), data)
}

func get[T any](t *Tx, bucket []byte, noun, key string) (T, error) {
	var v T
	data := t.tx.Bucket(bucket).Get([]byte(key))
	if data == nil {
		return v, primitives.Errorf(primitives.CodeNotFound, "%s %q does not exist", noun, key)
	}
	return v, decode(bucket, []byte(key), data, &v)
}

func all[T any](t *Tx, bucket []byte) ([]T, error) {
	var list []T
	err := t.tx.Bucket(bucket).ForEach(func(key, data []byte) error {
		var v T
		if err := decode(bucket, key, data, &v); err != nil {
			return err
		}
		list = append(list, v)
		return nil
	})
	return list, err
}

func decode(bucket, key, data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return primitives.Errorf(primitives.CodeInternal, "the journal's %s/%s cannot be read: %w", bucket, key, err)
	}
	return nil
}
