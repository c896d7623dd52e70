// SPDX-License-Identifier: Apache-2.0

package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tenon-storage/tenon/primitives"
)

const (
	identityFile    = "tenon-device.json"
	identityPattern = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
)

// identity is what makes a directory a device.
type identity struct {
	UUID    string
	Version int
}

// bounded runs f, which may hang in the kernel on a dead file system, and gives
// up with CodeUnavailable when ctx ends. f then ends by itself, later or never,
// and must not touch anything that bounded's caller uses afterwards.
func bounded(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return unanswered(ctx)
	}
}

// unanswered is the error of a request that ended before the file system answered.
func unanswered(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Cause(ctx)
	}
	return primitives.Errorf(primitives.CodeUnavailable, "the file system does not answer: %w", context.Cause(ctx))
}

// inspect looks at the directory that p names and changes nothing. An identity
// without UUID is an empty directory that may become a device.
func inspect(p primitives.Props) (identity, error) {
	return inspectOr(p, func(tree) (identity, error) { return identity{}, nil })
}

// inspectOr is inspect that has an empty directory made a device: the very one
// that was found empty, for a file system may be mounted or unmounted meanwhile.
func inspectOr(p primitives.Props, initialise func(tree) (identity, error)) (identity, error) {
	path := p[propPath]
	if !filepath.IsAbs(path) {
		return identity{}, primitives.Invalid(propPath, "%q: expected an absolute path", path)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return identity{}, unreachable(path, err)
	}
	t := tree{root: root, path: path}
	defer t.close()
	if p[propMount] == "true" {
		if err := t.checkMounted(); err != nil {
			return identity{}, err
		}
	}
	found, err := t.identity()
	want := p[propIdentity]
	switch {
	case err == nil && want != "" && found.UUID != want:
		return identity{}, foreign(path, want, found.UUID)
	case err == nil:
		return found, nil
	case !errors.Is(err, fs.ErrNotExist):
		return identity{}, err
	case want != "":
		return identity{}, missing(path)
	}
	if err := t.checkEmpty(); err != nil {
		return identity{}, err
	}
	return initialise(t)
}

// identity reads the identity file.
func (t tree) identity() (identity, error) {
	var id identity
	if err := t.readJSON(identityFile, &id); err != nil {
		return identity{}, err
	}
	if id.Version != recordVersion {
		return identity{}, primitives.Errorf(primitives.CodeUnsupported, "%s is of version %d, this driver knows %d", t.host(identityFile), id.Version, recordVersion).
			Trying("use a newer tenond")
	}
	return id, nil
}

// checkIdentity is what every operation begins with: a path whose file system
// was unmounted, or over which another was mounted, must not be filled.
func (t tree) checkIdentity(want string) error {
	id, err := t.identity()
	if errors.Is(err, fs.ErrNotExist) {
		return missing(t.path)
	}
	if err != nil {
		return err
	}
	if id.UUID != want {
		return foreign(t.path, want, id.UUID)
	}
	return nil
}

// checkMounted refuses a path that is a directory of its parent's file system.
func (t tree) checkMounted() error {
	info, err := t.root.Stat(".")
	if err != nil {
		return err
	}
	var above unix.Stat_t
	if err := unix.Stat(filepath.Join(t.path, ".."), &above); err != nil {
		return err
	}
	if info.Sys().(*syscall.Stat_t).Dev == above.Dev {
		return primitives.Errorf(primitives.CodeUnavailable, "no file system is mounted on %s", t.path).
			Trying("mount it, or set property %s to false", propMount)
	}
	return nil
}

// checkEmpty refuses to make a device of a directory that somebody else uses.
func (t tree) checkEmpty() error {
	f, err := t.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !ours(name) {
			return primitives.Invalid(propPath, "%s is no tenon device and not empty: it holds %q; expected an empty directory or a device", t.path, name)
		}
	}
	return nil
}

// ours tells what an initialisation that was interrupted may have left, beside
// what a new file system holds of itself.
func ours(name string) bool {
	switch name {
	case "lost+found", lockFile, volumesDir, trashDir, dataDir, mappingsDir, workDir:
		return true
	}
	return len(name) > len(tmpPrefix) && name[:len(tmpPrefix)] == tmpPrefix
}

func unreachable(path string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	return (&primitives.Error{Code: primitives.CodeUnavailable, Err: err}).
		Trying("check that %s exists, is a directory and that its file system is mounted", path)
}

func missing(path string) error {
	return primitives.Errorf(primitives.CodeUnavailable, "%s has lost its identity file: its file system is not mounted", path).
		Trying("mount the file system; nothing was written to the directory beneath")
}

// errForeign says that another device lies at the path.
type errForeign struct{ path, want, have string }

func (e *errForeign) Error() string {
	return fmt.Sprintf("%s is device %s, not %s: another file system is mounted there", e.path, e.have, e.want)
}

func foreign(path, want, have string) error {
	return (&primitives.Error{Code: primitives.CodeFenced, Err: &errForeign{path, want, have}}).
		Trying("mount the right file system, or add this one as another device")
}

// initialise makes the empty directory a device. The identity is written last,
// and never over another: of two that initialise at once both get the same.
func (b *backend) initialise(t tree) (identity, error) {
	t.step = b.driver.step
	if err := t.makeFolders(); err != nil {
		return identity{}, err
	}
	err := t.createJSON(identityFile, identity{UUID: newUUID(), Version: recordVersion})
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return identity{}, err
	}
	return t.identity()
}

// makeFolders makes what of the layout is missing. Others than the agent's user
// may pass through to the data files and nowhere else: QEMU runs as another.
func (t tree) makeFolders() error {
	for name, perm := range map[string]fs.FileMode{volumesDir: 0o700, trashDir: 0o700, mappingsDir: 0o700, workDir: 0o700, dataDir: 0o711} {
		info, err := t.root.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			t.about("mkdir", name)
			if err := t.root.Mkdir(name, perm); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		case err != nil:
			return err
		case !info.IsDir():
			return primitives.Errorf(primitives.CodeFenced, "%s is not a directory but %s", t.host(name), info.Mode().Type())
		}
	}
	if _, err := t.lstat(lockFile); errors.Is(err, fs.ErrNotExist) {
		f, err := t.create(lockFile, 0o600)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if f != nil {
			_ = f.Close() // nothing was written to it
		}
	} else if err != nil {
		return err
	}
	return t.syncDir(".")
}

// newUUID returns a random UUID, version 4.
func newUUID() string {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails (crypto/rand)
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
