// SPDX-License-Identifier: Apache-2.0

package mockmanager_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	realagent "github.com/tenon-storage/tenon/agent"
	"github.com/tenon-storage/tenon/agent/config"
	"github.com/tenon-storage/tenon/agent/rpc"
	"github.com/tenon-storage/tenon/api/failure"
	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/hypervisor/fake"
	protocol "github.com/tenon-storage/tenon/primitives/maintenance"
	"github.com/tenon-storage/tenon/storage"
	"github.com/tenon-storage/tenon/storage/mem"
	"github.com/tenon-storage/tenon/test/mockmanager"
)

// tenond is the real agent, over storage in memory and a hypervisor without
// guests, that dials a manager.
type tenond struct {
	*testing.T
	config config.Config
	driver *mem.Driver
	host   *fake.Host
	conn   *grpc.ClientConn
}

func newTenond(t *testing.T, manager string) *tenond {
	t.Helper()
	d := &tenond{T: t, config: config.Default(), driver: mem.New(), host: fake.NewHost()}
	d.host.Add("web", fake.Options{})
	dir, err := os.MkdirTemp("", "tn-") // sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	d.config.StateDir, d.config.RunDir, d.config.Socket = filepath.Join(dir, "state"), filepath.Join(dir, "run"), filepath.Join(dir, "s")
	d.config.Maintenance.Manager = manager
	conn, err := grpc.NewClient("unix://"+d.config.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	d.conn = conn
	t.Cleanup(func() { _ = conn.Close() })
	return d
}

// start starts the agent; the returned function ends it, as SIGTERM would.
func (d *tenond) start() (stop func()) {
	d.Helper()
	drivers, err := storage.NewTable(d.driver)
	if err != nil {
		d.Fatal(err)
	}
	a, err := realagent.New(d.config, realagent.Parts{Drivers: drivers, Adapter: d.host.Open(), BootID: "boot-1", Version: "test"})
	if err != nil {
		d.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, served := make(chan struct{}), make(chan error, 1)
	go func() { served <- a.Serve(ctx, rpc.Socket{Path: d.config.Socket}, func() { close(ready) }) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			d.Errorf("Serve = %v", err)
		}
		if err := a.Close(); err != nil {
			d.Errorf("Close = %v", err)
		}
	})
	d.Cleanup(stop)
	select {
	case <-ready:
	case err := <-served:
		d.Fatal(err)
	}
	return stop
}

// wait waits for an operation and returns its failure.
func (d *tenond) wait(resp interface{ GetOperation() *tenonv1.Operation }, err error) *tenonv1.Failure {
	d.Helper()
	if err != nil {
		return failure.Of(err)
	}
	ended, err := tenonv1.NewOperationServiceClient(d.conn).WaitOperation(d.Context(), &tenonv1.WaitOperationRequest{Id: resp.GetOperation().GetId()})
	if err != nil {
		d.Fatal(err)
	}
	return ended.GetOperation().GetFailure()
}

// must fails the test where something failed.
func (d *tenond) must(f *tenonv1.Failure) {
	d.Helper()
	if f != nil {
		d.Fatal(f)
	}
}

func (d *tenond) attach() *tenonv1.Failure {
	d.Helper()
	return d.wait(tenonv1.NewDiskServiceClient(d.conn).AttachDisk(d.Context(), &tenonv1.AttachDiskRequest{Uri: "fast/web01", Domain: "web"}))
}

// A real agent goes through maintenances of an outside manager while messages are
// lost, repeated and swapped, sessions are cut, and both sides start anew.
//
// Cases: E1, E2, E3, E29, E40, E41, E43, E44
func TestTheRealAgentIsManagedThroughLossCutsAndRestarts(t *testing.T) {
	h := newHouse(t, mockmanager.Options{ID: "headquarters", Term: 7})
	d := newTenond(t, h.Address())
	stop := d.start()
	h.eventually("the agent dialled", func() bool { return strings.Contains(h.record.String(), `"hello"`) })
	d.must(d.wait(tenonv1.NewDeviceServiceClient(d.conn).AddDevice(t.Context(), &tenonv1.AddDeviceRequest{
		Name: "fast", Driver: "mem", Properties: map[string]string{"store": "fast"},
	})))
	h.hosts(1)
	h.phase("", protocol.InService)
	h.within(func(ctx context.Context) error {
		return h.Await(ctx, "", func(s protocol.Management, _ []protocol.Blocker) bool {
			return len(s.Members) == 1 && s.Members[0].Ack.Phase == protocol.HostOpen
		})
	})
	d.must(d.wait(tenonv1.NewVolumeServiceClient(d.conn).CreateVolume(t.Context(), &tenonv1.CreateVolumeRequest{Uri: "fast/web01", SizeBytes: 1 << 20})))
	d.locallyRefused("headquarters")
	for id, faults := range map[string][]mockmanager.Fault{
		"m-1": {{Of: "orders", Do: "lose"}, {Of: "orders", Do: "repeat", Times: 100}, {Of: "reports", Do: "repeat", Count: 3}},
		"m-2": {{Of: "orders", Do: "late", Count: 3}, {Of: "reports", Do: "lose"}, {Of: "reports", Do: "reorder"}},
	} {
		d.must(d.attach())
		if err := h.Befall(faults...); err != nil {
			t.Fatal(err)
		}
		in := intent(id)
		in.Policy = protocol.Policy{detach}
		h.event("", protocol.Prepare{Intent: in})
		h.Disconnect("")
		h.phase("", protocol.InMaintenance)
		d.gone()
		d.attachRefused(id)
		stop()
		if err := h.Restart(); err != nil {
			t.Fatal(err)
		}
		stop = d.start()
		d.attachRefused(id) // before anybody was heard of
		h.Disconnect("")
		h.event("", protocol.End{ID: id, By: "test"})
		h.phase("", protocol.InService)
		d.open()
	}
}

// locallyRefused wants a local wish to be refused naming the manager.
func (d *tenond) locallyRefused(manager string) {
	d.Helper()
	_, err := tenonv1.NewMaintenanceServiceClient(d.conn).PrepareMaintenance(d.Context(), &tenonv1.PrepareMaintenanceRequest{
		Device: "fast", Intent: &tenonv1.MaintenanceIntent{Impact: tenonv1.Impact_IMPACT_DISCONNECT},
	})
	if f := failure.Of(err); f == nil || !strings.Contains(f.GetMessage()+f.GetTry(), manager) {
		d.Errorf("PrepareMaintenance of a managed host = %v, want a refusal that names %s", err, manager)
	}
}

// attachRefused wants an attach to be refused by that maintenance.
func (d *tenond) attachRefused(id string) {
	d.Helper()
	f := d.attach()
	if f == nil || !strings.Contains(f.GetMessage(), id) || !strings.Contains(f.GetMessage(), "1h") {
		d.Errorf("attach = %v, want a refusal that names maintenance %s and its time", f, id)
	}
}

// gone wants the domain to have no disk.
func (d *tenond) gone() {
	d.Helper()
	resp, err := tenonv1.NewDiskServiceClient(d.conn).ListDisks(d.Context(), &tenonv1.ListDisksRequest{Domain: "web"})
	if err != nil || len(resp.GetDisks()) > 0 {
		d.Errorf("disks in maintenance = %v, %v; want none", resp.GetDisks(), err)
	}
}

// open waits until the agent itself says that the device's gate is open.
func (d *tenond) open() {
	d.Helper()
	client := tenonv1.NewMaintenanceServiceClient(d.conn)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	for {
		resp, err := client.GetMaintenance(d.Context(), &tenonv1.GetMaintenanceRequest{Device: "fast"})
		if err != nil {
			d.Fatal(err)
		}
		if m := resp.GetMaintenance(); m.GetGate() == tenonv1.Gate_GATE_OPEN && m.GetManagedBy() == "headquarters" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			d.Fatalf("the device is not open: %v", resp)
		}
	}
}
