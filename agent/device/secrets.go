// SPDX-License-Identifier: Apache-2.0

package device

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tenon-storage/tenon/internal/durable"
	"github.com/tenon-storage/tenon/primitives"
)

// vault keeps the devices' secrets, each set in a file of its own that only its
// owner can read. Operations and the journal know a set by its reference. The
// reference of equal sets is equal, so that a repeated request is recognised,
// and tells nothing about them without the vault's key.
type vault struct {
	dir string
	key []byte
}

const keyFile = ".key"

func openVault(dir string) (*vault, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, keyFile)
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = []byte(rand.Text())
		err = durable.WriteFile(path, key, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("key of the secrets: %w", err)
	}
	return &vault{dir: dir, key: key}, nil
}

// put writes a set of secrets and returns its reference; "" for none.
func (v *vault) put(device string, s primitives.Secrets) (ref string, err error) {
	names := s.Names()
	if len(names) == 0 {
		return "", nil
	}
	values := make(map[string][]byte, len(names))
	for _, name := range names {
		values[name], _ = s.Get(name)
	}
	data, err := json.Marshal(values) // in order of name
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, v.key)
	fmt.Fprintf(mac, "%s\x00%s", device, data)
	ref = device + "." + hex.EncodeToString(mac.Sum(nil)[:12])
	if err := durable.WriteFile(v.path(ref), data, 0o600); err != nil {
		return "", fmt.Errorf("put the secrets of %s aside: %w", device, err)
	}
	return ref, nil
}

func (v *vault) path(ref string) string { return filepath.Join(v.dir, ref+".json") }

// get reads a set of secrets.
func (v *vault) get(ref string) (primitives.Secrets, error) {
	if ref == "" {
		return primitives.Secrets{}, nil
	}
	data, err := os.ReadFile(v.path(ref))
	if err != nil {
		return primitives.Secrets{}, primitives.Errorf(primitives.CodeInternal, "the device's secrets cannot be read: %w", err).
			Trying("give them again with: tenonctl device update NAME --secret KEY=@FILE")
	}
	var values map[string][]byte
	if err := json.Unmarshal(data, &values); err != nil {
		// The decoder's error may quote what it read.
		return primitives.Secrets{}, primitives.Errorf(primitives.CodeInternal, "the file with the device's secrets is damaged: %s", v.path(ref))
	}
	return primitives.NewSecrets(values), nil
}

// drop removes a set of secrets; an unknown one is success.
func (v *vault) drop(ref string) error {
	if ref == "" {
		return nil
	}
	if err := durable.Remove(v.path(ref)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sweep removes every set that keep does not hold, and what an interrupted
// write left.
func (v *vault) sweep(keep map[string]bool) error {
	entries, err := os.ReadDir(v.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		ref, isSet := strings.CutSuffix(e.Name(), ".json")
		if e.Name() == keyFile || isSet && keep[ref] {
			continue
		}
		errs = append(errs, durable.Remove(filepath.Join(v.dir, e.Name())))
	}
	return errors.Join(errs...)
}
