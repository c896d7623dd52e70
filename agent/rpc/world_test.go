// SPDX-License-Identifier: Apache-2.0

package rpc_test

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tenon-storage/tenon/agent"
	"github.com/tenon-storage/tenon/agent/config"
	"github.com/tenon-storage/tenon/agent/rpc"
	"github.com/tenon-storage/tenon/api/failure"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/hypervisor"
	"github.com/tenon-storage/tenon/hypervisor/fake"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/mem"
)

// world is a whole agent over storage in memory and a hypervisor without guests,
// with a client of its API on a real socket. It has one domain, web01.
type world struct {
	*testing.T
	driver *mem.Driver
	host   *fake.Host
	domain hypervisor.DomainID
	conn   *grpc.ClientConn
	log    *syncBuffer
	config config.Config
	stop   func() // ends the agent as SIGTERM would
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, driver: mem.New(), host: fake.NewHost(), log: new(syncBuffer), config: config.Default()}
	w.domain = w.host.Add("web01", fake.Options{})
	w.config.StateDir, w.config.RunDir = filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "run")
	w.config.Socket = filepath.Join(t.TempDir(), "s")
	w.boot()
	conn, err := grpc.NewClient("unix://"+w.config.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	w.conn = conn
	t.Cleanup(func() { _ = conn.Close() })
	return w
}

// boot starts the agent and waits until it is ready.
func (w *world) boot() {
	w.Helper()
	drivers, err := storage.NewTable(w.driver)
	if err != nil {
		w.Fatal(err)
	}
	a, err := agent.New(w.config, agent.Parts{
		Drivers: drivers, Adapter: w.host.Open(), BootID: "boot-1", Version: "test",
		Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, served := make(chan struct{}), make(chan error, 1)
	go func() { served <- a.Serve(ctx, rpc.Socket{Path: w.config.Socket}, func() { close(ready) }) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			w.Errorf("Serve = %v, want nil", err)
		}
		if err := a.Close(); err != nil {
			w.Errorf("Close = %v, want nil", err)
		}
	})
	w.Cleanup(func() { w.stop() })
	select {
	case <-ready:
	case err := <-served:
		w.Fatal(err)
	}
}

// done waits for the end of the operation that a call answered, and fails the
// test when it did not succeed.
func (w *world) done(resp interface{ GetOperation() *tenonv1.Operation }, err error) *tenonv1.Operation {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
	op := w.end(resp.GetOperation())
	if op.GetState() != tenonv1.OperationState_OPERATION_STATE_SUCCEEDED {
		w.Fatalf("operation %s = %v, want success", op.GetKind(), op)
	}
	return op
}

// end waits for the end of an operation.
func (w *world) end(op *tenonv1.Operation) *tenonv1.Operation {
	w.Helper()
	resp, err := tenonv1.NewOperationServiceClient(w.conn).WaitOperation(w.Context(), &tenonv1.WaitOperationRequest{Id: op.GetId()})
	if err != nil {
		w.Fatal(err)
	}
	return resp.GetOperation()
}

// refused waits for the end of what a call began, if it began anything, and
// returns why it failed.
func (w *world) refused(resp interface{ GetOperation() *tenonv1.Operation }, err error) *tenonv1.Failure {
	w.Helper()
	if err != nil {
		return failure.Of(err)
	}
	op := w.end(resp.GetOperation())
	if op.GetFailure() == nil {
		w.Fatalf("operation %s = %v, want a failure", op.GetKind(), op)
	}
	return op.GetFailure()
}

// device adds a device of driver mem, whose store has the same name.
func (w *world) device(name string) {
	w.Helper()
	w.done(tenonv1.NewDeviceServiceClient(w.conn).AddDevice(w.Context(), &tenonv1.AddDeviceRequest{
		Name: name, Driver: "mem", Properties: map[string]string{"store": name},
	}))
}

// volume makes a volume.
func (w *world) volume(uri string, size int64) *tenonv1.Volume {
	w.Helper()
	return w.done(tenonv1.NewVolumeServiceClient(w.conn).CreateVolume(w.Context(), &tenonv1.CreateVolumeRequest{
		Uri: uri, SizeBytes: size,
	})).GetVolume()
}

// syncBuffer is a log that may be read while it is written.
type syncBuffer struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
