// SPDX-License-Identifier: Apache-2.0

package binding

import (
	"encoding/json"

	"libvirt.org/go/libvirt"

	"github.com/tenon-storage/tenon/hypervisor/kvm/internal/virt"
)

// Nodes lists QEMU's block nodes. libvirt has no call for it, and marks a domain
// whose QEMU is asked directly as tainted.
func (v *Conn) Nodes(domain string) ([]virt.Node, error) {
	var tops []struct {
		QDev     string `json:"qdev"`
		Inserted struct {
			Node string `json:"node-name"`
		} `json:"inserted"`
	}
	if err := v.monitor(domain, "query-block", nil, &tops); err != nil {
		return nil, err
	}
	var nodes []struct {
		Name   string `json:"node-name"`
		Driver string `json:"drv"`
		File   string `json:"file"`
	}
	if err := v.monitor(domain, "query-named-block-nodes", map[string]any{"flat": true}, &nodes); err != nil {
		return nil, err
	}
	devices := map[string]string{}
	for _, top := range tops {
		devices[top.Inserted.Node] = top.QDev
	}
	out := make([]virt.Node, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, virt.Node{Name: n.Name, Driver: n.Driver, File: n.File, Device: devices[n.Name]})
	}
	return out, nil
}

// NodeJobs lists QEMU's block jobs.
func (v *Conn) NodeJobs(domain string) ([]virt.NodeJob, error) {
	var jobs []struct {
		Device string `json:"device"`
		Ready  bool   `json:"ready"`
	}
	if err := v.monitor(domain, "query-block-jobs", nil, &jobs); err != nil {
		return nil, err
	}
	out := make([]virt.NodeJob, 0, len(jobs))
	for _, j := range jobs {
		out = append(out, virt.NodeJob{ID: j.Device, Ready: j.Ready})
	}
	return out, nil
}

// MirrorNode begins to copy a node to another one that is there.
func (v *Conn) MirrorNode(domain, job, from, to string) error {
	return v.monitor(domain, "blockdev-mirror", map[string]any{
		"job-id": job, "device": from, "target": to, "sync": "full", "copy-mode": "write-blocking",
	}, nil)
}

// CompleteNodeJob ends a job that is ready with its result.
func (v *Conn) CompleteNodeJob(domain, job string) error {
	return v.monitor(domain, "job-complete", map[string]any{"id": job}, nil)
}

// EndNodeJob gives a job up or, once it has ended, takes away what is left of it,
// which QEMU keeps for jobs of libvirt's.
func (v *Conn) EndNodeJob(domain, job string) error {
	var jobs []struct {
		ID     string `json:"id"`
		Status string `json:"status"`
	}
	if err := v.monitor(domain, "query-jobs", nil, &jobs); err != nil {
		return err
	}
	for _, j := range jobs {
		switch {
		case j.ID != job || j.Status == "aborting" || j.Status == "null":
		case j.Status == "concluded":
			return v.monitor(domain, "job-dismiss", map[string]any{"id": job}, nil)
		default:
			return v.monitor(domain, "block-job-cancel", map[string]any{"device": job, "force": true}, nil)
		}
	}
	return nil
}

// DeleteNode closes a node that nothing uses.
func (v *Conn) DeleteNode(domain, node string) error {
	return v.monitor(domain, "blockdev-del", map[string]any{"node-name": node}, nil)
}

// monitor gives QEMU one command. libvirt passes QEMU's own errors on as a reply.
func (v *Conn) monitor(domain, command string, arguments map[string]any, result any) error {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	var answer string
	err = v.with(domain, func(d *libvirt.Domain) (err error) {
		answer, err = d.QemuMonitorCommand(string(text), libvirt.DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT)
		return err
	})
	if err != nil {
		return err
	}
	var reply struct {
		Return json.RawMessage `json:"return"`
		Error  *struct {
			Desc string `json:"desc"`
		} `json:"error"`
	}
	if err := json.Unmarshal([]byte(answer), &reply); err != nil {
		return virt.Errorf(virt.CodeInternal, "%s: %v", command, err)
	}
	if reply.Error != nil {
		return virt.Errorf(virt.CodeInternal, "QEMU command '%s': %s", command, reply.Error.Desc)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(reply.Return, result); err != nil {
		return virt.Errorf(virt.CodeInternal, "%s: %v", command, err)
	}
	return nil
}
