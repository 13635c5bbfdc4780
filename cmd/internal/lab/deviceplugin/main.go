// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Command deviceplugin is a kubelet device plugin that has one GPU. It answers as NVIDIA's does
// with the given device list strategy:
//
//	deviceplugin envvar|volume-mounts|cdi-cri UUID
//
// It notifies systemd that it is ready when the kubelet has the GPU to allocate, and exits when the
// kubelet does.
//
// It is a module of its own, which also provides the kubelet, so that nothing else depends on what
// these two need.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	plugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	resources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

const (
	resource = "nvidia.com/gpu"
	endpoint = "nvidia-gpu.sock"
	// mounts is the directory in which a container finds an entry for each of its devices.
	mounts = "/var/run/nvidia-container-devices"
)

// strategies are the answers for a device, by device list strategy.
var strategies = map[string]func(id string) *plugin.ContainerAllocateResponse{
	"envvar": func(id string) *plugin.ContainerAllocateResponse {
		return &plugin.ContainerAllocateResponse{Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": id}}
	},
	"volume-mounts": func(id string) *plugin.ContainerAllocateResponse {
		return &plugin.ContainerAllocateResponse{
			Envs:   map[string]string{"NVIDIA_VISIBLE_DEVICES": mounts},
			Mounts: []*plugin.Mount{{HostPath: "/dev/null", ContainerPath: filepath.Join(mounts, id)}},
		}
	},
	"cdi-cri": func(id string) *plugin.ContainerAllocateResponse {
		return &plugin.ContainerAllocateResponse{CdiDevices: []*plugin.CDIDevice{{Name: resource + "=" + id}}}
	},
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 || strategies[args[0]] == nil {
		return errors.New("usage: deviceplugin envvar|volume-mounts|cdi-cri UUID")
	}
	ctx := context.Background()
	id := args[1]
	// The kubelet forgets what it knows about a plugin that has just exited. Wait for that.
	if err := wait(ctx, id, false); err != nil {
		return err
	}
	server, ended := grpc.NewServer(), make(chan error, 1)
	plugin.RegisterDevicePluginServer(server, &devicePlugin{id: id, answer: strategies[args[0]](id), ended: ended})
	kubelet, err := dial(plugin.KubeletSocket)
	if err != nil {
		return err
	}
	defer kubelet.Close()
	// A starting kubelet removes all sockets, perhaps including this one, and then cannot find the
	// plugin.
	for {
		if err := listen(server); err != nil {
			return err
		}
		request := &plugin.RegisterRequest{Version: plugin.Version, Endpoint: endpoint, ResourceName: resource}
		_, err := plugin.NewRegistrationClient(kubelet).Register(ctx, request, grpc.WaitForReady(true))
		if err == nil {
			break
		}
		fmt.Fprintln(os.Stderr, err)
	}
	if err := wait(ctx, id, true); err != nil {
		return err
	}
	if err := ready(); err != nil {
		return err
	}
	return <-ended
}

// listen serves on the plugin's socket.
func listen(server *grpc.Server) error {
	socket := plugin.DevicePluginPath + endpoint
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	go server.Serve(listener)
	return nil
}

func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// wait waits until the kubelet has the device to allocate or, if there is false, no longer has it.
func wait(ctx context.Context, id string, there bool) error {
	kubelet, err := dial("/var/lib/kubelet/pod-resources/kubelet.sock")
	if err != nil {
		return err
	}
	defer kubelet.Close()
	client := resources.NewPodResourcesListerClient(kubelet)
	for tick := time.Tick(100 * time.Millisecond); ; <-tick {
		request := &resources.AllocatableResourcesRequest{}
		response, err := client.GetAllocatableResources(ctx, request, grpc.WaitForReady(true))
		if err != nil {
			return err
		}
		if there == slices.ContainsFunc(response.Devices, func(d *resources.ContainerDevices) bool {
			return d.ResourceName == resource && slices.Contains(d.DeviceIds, id)
		}) {
			return nil
		}
	}
}

// ready notifies systemd that the plugin is ready.
func ready() error {
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte("READY=1"))
	return err
}

type devicePlugin struct {
	plugin.UnimplementedDevicePluginServer
	id     string
	answer *plugin.ContainerAllocateResponse
	ended  chan<- error
}

func (p *devicePlugin) GetDevicePluginOptions(context.Context, *plugin.Empty) (*plugin.DevicePluginOptions, error) {
	return &plugin.DevicePluginOptions{}, nil
}

// ListAndWatch reports the device and returns when the kubelet exits.
func (p *devicePlugin) ListAndWatch(_ *plugin.Empty, stream plugin.DevicePlugin_ListAndWatchServer) error {
	devices := []*plugin.Device{{ID: p.id, Health: plugin.Healthy}}
	if err := stream.Send(&plugin.ListAndWatchResponse{Devices: devices}); err != nil {
		return err
	}
	<-stream.Context().Done()
	p.ended <- errors.New("the kubelet has ended")
	return nil
}

func (p *devicePlugin) Allocate(_ context.Context, request *plugin.AllocateRequest) (*plugin.AllocateResponse, error) {
	response := &plugin.AllocateResponse{}
	for range request.ContainerRequests {
		response.ContainerResponses = append(response.ContainerResponses, p.answer)
	}
	return response, nil
}
