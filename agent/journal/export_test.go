// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"encoding/json"

	"go.etcd.io/bbolt"
)

// SetFormat writes another format version.
func SetFormat(j *Journal, version int) error {
	m := j.meta
	m.Format = version
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return j.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyMeta, data) })
}

// MakeFormat1 makes a file what tenond wrote before it knew maintenance.
func MakeFormat1(j *Journal) error {
	err := j.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets2() {
			if err := tx.DeleteBucket(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return SetFormat(j, 1)
}
