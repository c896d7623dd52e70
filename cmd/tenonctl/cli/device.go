// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	tenonv1 "github.com/tenon-storage/tenon/api/tenon/v1"
	"github.com/tenon-storage/tenon/cmd/tenonctl/show"
)

func (a *app) device() *cobra.Command {
	return noun("device", "Configured storage",
		a.deviceAdd(), a.deviceValidate(), a.deviceList(), a.deviceShow(), a.deviceUpdate(), a.deviceRemove(), a.deviceCheck())
}

func (a *app) devices() (tenonv1.DeviceServiceClient, error) {
	conn, err := a.conn()
	if err != nil {
		return nil, err
	}
	return tenonv1.NewDeviceServiceClient(conn), nil
}

// deviceFlags are what add, update and validate are given.
type deviceFlags struct {
	driver                          string
	props, secrets                  []string
	removeProperties, removeSecrets []string
}

func (f *deviceFlags) addDriver(a *app, cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.driver, "driver", "", "the `DRIVER` that speaks to the storage")
	must(cmd.RegisterFlagCompletionFunc("driver", a.completeAll(a.driverNames)))
}

func (f *deviceFlags) addRemovals(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.removeProperties, "remove-property", nil, "the `key` of a property to remove; may be repeated")
	cmd.Flags().StringArrayVar(&f.removeSecrets, "remove-secret", nil, "the `key` of a secret to remove; may be repeated")
}

func (f *deviceFlags) read(a *app) (map[string]string, map[string][]byte, error) {
	props, err := properties(f.props)
	if err != nil {
		return nil, nil, err
	}
	secretValues, err := secrets(f.secrets, a.env.In)
	return props, secretValues, err
}

func (a *app) deviceAdd() *cobra.Command {
	var f deviceFlags
	cmd := &cobra.Command{
		Use:   "add NAME --driver DRIVER [-p key=value]... [--secret key=@FILE]...",
		Short: "Configure a device",
		Long: "Configure a device. Everything about it is checked first; nothing is stored unless all of it is\n" +
			"right. See tenonctl driver show DRIVER for the properties.",
		Example: "  tenonctl device add fast --driver dir -p path=/srv/fast\n" +
			"  tenonctl device add pool --driver rbd -p pool=vms --secret key=@/root/ceph.key\n" +
			"  pass show ceph | tenonctl device add pool --driver rbd -p pool=vms --secret key=@-",
		Args: needs("NAME"), ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		props, secretValues, err := f.read(a)
		if err != nil {
			return err
		}
		client, err := a.devices()
		if err != nil {
			return err
		}
		return change(ctx, a, client.AddDevice, &tenonv1.AddDeviceRequest{
			RequestId: a.requestID, Name: args[0], Driver: f.driver, Properties: props, Secrets: secretValues,
		})
	})
	f.addDriver(a, cmd)
	must(cmd.MarkFlagRequired("driver"))
	propertyFlags(cmd, &f.props, &f.secrets)
	return cmd
}

func (a *app) deviceUpdate() *cobra.Command {
	var f deviceFlags
	cmd := &cobra.Command{
		Use:   "update NAME [-p key=value]... [--remove-property key]... [--secret key=@FILE]... [--remove-secret key]...",
		Short: "Change properties and secrets of a device",
		Long:  "Change properties and secrets of a device. What is not named stays as it is.",
		Example: "  tenonctl device update fast -p reserve=10G\n" +
			"  tenonctl device update fast --remove-property reserve\n" +
			"  tenonctl device update pool --secret key=@/root/new.key",
		Args: needs("NAME"), ValidArgsFunction: a.complete(a.deviceNames),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		props, secretValues, err := f.read(a)
		if err != nil {
			return err
		}
		if len(props)+len(secretValues)+len(f.removeProperties)+len(f.removeSecrets) == 0 {
			return usagef("nothing to change: give -p, --secret, --remove-property or --remove-secret")
		}
		client, err := a.devices()
		if err != nil {
			return err
		}
		return change(ctx, a, client.UpdateDevice, &tenonv1.UpdateDeviceRequest{
			RequestId: a.requestID, Name: args[0], Properties: props, RemoveProperties: f.removeProperties,
			Secrets: secretValues, RemoveSecrets: f.removeSecrets,
		})
	})
	propertyFlags(cmd, &f.props, &f.secrets)
	f.addRemovals(cmd)
	return cmd
}

func (a *app) deviceValidate() *cobra.Command {
	var f deviceFlags
	cmd := &cobra.Command{
		Use:   "validate NAME [--driver DRIVER] [-p key=value]... [--remove-property key]... [--secret key=@FILE]... [--remove-secret key]...",
		Short: "Say what add or update would find wrong, and change nothing",
		Long: "Say what add, or without --driver update, would find wrong with these arguments. Nothing is\n" +
			"changed. The exit code is 1 if anything but warnings was found.",
		Example: "  tenonctl device validate fast --driver dir -p path=/srv/fast\n" +
			"  tenonctl device validate fast -p reserve=10G",
		Args: needs("NAME"), ValidArgsFunction: a.complete(a.deviceNames),
	}
	cmd.RunE = run(func(ctx context.Context, args []string) error {
		props, secretValues, err := f.read(a)
		if err != nil {
			return err
		}
		client, err := a.devices()
		if err != nil {
			return err
		}
		resp, err := client.ValidateDevice(ctx, &tenonv1.ValidateDeviceRequest{
			Name: args[0], Driver: f.driver, Properties: props, RemoveProperties: f.removeProperties,
			Secrets: secretValues, RemoveSecrets: f.removeSecrets,
		})
		if err != nil {
			return err
		}
		return a.printProblems(resp)
	})
	f.addDriver(a, cmd)
	propertyFlags(cmd, &f.props, &f.secrets)
	f.addRemovals(cmd)
	return cmd
}

func (a *app) printProblems(resp *tenonv1.ValidateDeviceResponse) error {
	fatal := slices.ContainsFunc(resp.GetProblems(), func(p *tenonv1.Problem) bool { return !p.GetWarning() })
	err := a.print(resp, func() string {
		if len(resp.GetProblems()) == 0 {
			return "valid\n"
		}
		return show.Problems(resp.GetProblems())
	})
	if err == nil && fatal {
		return errSilent
	}
	return err
}

func (a *app) allDevices(ctx context.Context) (*tenonv1.ListDevicesResponse, error) {
	client, err := a.devices()
	if err != nil {
		return nil, err
	}
	all := new(tenonv1.ListDevicesResponse)
	return all, pages(func(token string) (*tenonv1.ListDevicesResponse, error) {
		return client.ListDevices(ctx, &tenonv1.ListDevicesRequest{PageToken: token})
	}, func(p *tenonv1.ListDevicesResponse) { all.Devices = append(all.Devices, p.GetDevices()...) })
}

func (a *app) deviceList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the devices", Example: "  tenonctl device list", Args: needs(),
		RunE: run(func(ctx context.Context, _ []string) error {
			all, err := a.allDevices(ctx)
			if err != nil {
				return err
			}
			return a.printList(all, len(all.GetDevices()), "no devices; add one with tenonctl device add",
				func() string { return a.style.Devices(all.GetDevices()) })
		}),
	}
}

func (a *app) deviceShow() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a device, its properties and what it can do", Example: "  tenonctl device show fast",
		Args: needs("NAME"), ValidArgsFunction: a.complete(a.deviceNames),
		RunE: run(func(ctx context.Context, args []string) error {
			client, err := a.devices()
			if err != nil {
				return err
			}
			resp, err := client.GetDevice(ctx, &tenonv1.GetDeviceRequest{Name: args[0]})
			if err != nil {
				return err
			}
			return a.print(resp.GetDevice(), func() string { return a.style.Device(resp.GetDevice()) })
		}),
	}
}

func (a *app) deviceRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Forget a device; its volumes stay where they are", Example: "  tenonctl device remove fast",
		Args: needs("NAME"), ValidArgsFunction: a.complete(a.deviceNames),
		RunE: run(func(ctx context.Context, args []string) error {
			client, err := a.devices()
			if err != nil {
				return err
			}
			return change(ctx, a, client.RemoveDevice, &tenonv1.RemoveDeviceRequest{RequestId: a.requestID, Name: args[0]})
		}),
	}
}

func (a *app) deviceCheck() *cobra.Command {
	return &cobra.Command{
		Use: "check NAME", Short: "Look at a device anew and say what was found",
		Long:    "Look at a device anew and say what was found. Nothing is changed. The exit code is 1 if anything\nis not in order.",
		Example: "  tenonctl device check fast",
		Args:    needs("NAME"), ValidArgsFunction: a.complete(a.deviceNames),
		RunE: run(func(ctx context.Context, args []string) error {
			client, err := a.devices()
			if err != nil {
				return err
			}
			resp, err := client.CheckDevice(ctx, &tenonv1.CheckDeviceRequest{Name: args[0]})
			if err != nil {
				return err
			}
			err = a.print(resp, func() string { return show.Checks(resp.GetChecks()) })
			if err == nil && slices.ContainsFunc(resp.GetChecks(), func(c *tenonv1.DeviceCheck) bool { return !c.GetOk() }) {
				return errSilent
			}
			return err
		}),
	}
}
