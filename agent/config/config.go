// SPDX-License-Identifier: Apache-2.0

// Package config reads tenond's configuration file. Devices are not in it: they
// are added at run time and kept in the journal.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// DefaultPath is where tenond looks for its configuration. The file may be absent.
const DefaultPath = "/etc/tenon/tenond.yaml"

// Config is the whole configuration. Default returns the one of an empty file.
type Config struct {
	StateDir string // what must survive a reboot: the journal and secrets
	RunDir   string // what need not: sockets
	Socket   string // the API's unix socket; empty in a file: tenond.sock in RunDir
	// SocketGroup names the group whose members may use the socket, besides root
	// and tenond's own user; empty: none. Who may use it may do everything.
	SocketGroup string
	Hypervisor  Hypervisor
	Maintenance Maintenance
	Log         Log
	Limits      Limits
}

// Maintenance says who takes this host's devices into maintenance.
type Maintenance struct {
	// Manager is where the manager of many hosts listens: unix:/PATH, or HOST:PORT of
	// this host itself. Empty: the host manages its devices itself.
	Manager string
}

// Hypervisor says which hypervisor serves this host.
type Hypervisor struct {
	KVM KVM
}

// KVM is the way to QEMU.
type KVM struct {
	URI string // libvirt's; empty: this host runs no domains
}

// Log says what is logged and how.
type Log struct {
	Level  slog.Level
	Format string // "text" or "json"
}

// Limits bound what the agent does at once and keeps.
type Limits struct {
	Operations     int           // running at once; more are refused
	Transfers      int           // copies and other bulk work running at once; more wait
	KeepOperations int           // finished operations kept
	KeepFor        time.Duration // how long a finished operation is kept at least, and its request id is known
	DeviceOpen     time.Duration // how long a device may take to open
	Detach         time.Duration // how long a guest may take to let go of a disk
	Freeze         time.Duration // how long a guest's file systems may stay frozen
}

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{
		StateDir:   "/var/lib/tenon",
		RunDir:     "/run/tenon",
		Hypervisor: Hypervisor{KVM: KVM{URI: "qemu:///system"}},
		Log:        Log{Level: slog.LevelInfo, Format: "text"},
		Limits: Limits{
			Operations:     256,
			Transfers:      4,
			KeepOperations: 1000,
			KeepFor:        24 * time.Hour,
			DeviceOpen:     20 * time.Second,
			Detach:         30 * time.Second,
			Freeze:         8 * time.Second, // Windows thaws by itself after 10 s
		},
	}.withSocket()
}

func (c Config) withSocket() Config {
	if c.Socket == "" {
		c.Socket = filepath.Join(c.RunDir, "tenond.sock")
	}
	return c
}

// Load reads the file at path. A file that is absent is an empty one if it may be.
func Load(path string, mayBeAbsent bool) (Config, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && mayBeAbsent {
		return Default(), nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("read the configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse reads a configuration and reports every mistake in it at once, each with
// its line. name is the file's, for the messages.
func Parse(name string, data []byte) (Config, error) {
	c := Default()
	c.Socket = ""
	if len(bytes.TrimSpace(data)) > 0 {
		if err := decode(name, data, &c); err != nil {
			return Config{}, err
		}
	}
	return c.withSocket(), nil
}
