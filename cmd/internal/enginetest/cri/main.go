// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Command cri makes one call to a container runtime over Kubernetes' Container Runtime Interface,
// as the kubelet does:
//
//	cri SOCKET METHOD REQUEST
//
// REQUEST is the message as JSON, with the names of its Go struct's json tags; the response is
// printed in the same form. If the call fails, it prints what the kubelet would show to standard
// error and exits with status 1.
//
// It is a separate module, to keep its dependencies away from the rest.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// timeout is the kubelet's for all but long calls.
const timeout = 2 * time.Minute

// methods are the supported methods of the runtime service, each with an empty request and
// response.
var methods = map[string][2]any{
	"Version":          {&runtime.VersionRequest{}, &runtime.VersionResponse{}},
	"RunPodSandbox":    {&runtime.RunPodSandboxRequest{}, &runtime.RunPodSandboxResponse{}},
	"StopPodSandbox":   {&runtime.StopPodSandboxRequest{}, &runtime.StopPodSandboxResponse{}},
	"RemovePodSandbox": {&runtime.RemovePodSandboxRequest{}, &runtime.RemovePodSandboxResponse{}},
	"CreateContainer":  {&runtime.CreateContainerRequest{}, &runtime.CreateContainerResponse{}},
	"StartContainer":   {&runtime.StartContainerRequest{}, &runtime.StartContainerResponse{}},
	"ListContainers":   {&runtime.ListContainersRequest{}, &runtime.ListContainersResponse{}},
	"StopContainer":    {&runtime.StopContainerRequest{}, &runtime.StopContainerResponse{}},
	"RemoveContainer":  {&runtime.RemoveContainerRequest{}, &runtime.RemoveContainerResponse{}},
	"UpdateContainerResources": {
		&runtime.UpdateContainerResourcesRequest{}, &runtime.UpdateContainerResourcesResponse{},
	},
	"ExecSync": {&runtime.ExecSyncRequest{}, &runtime.ExecSyncResponse{}},
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	if len(args) != 3 {
		return fmt.Errorf("usage: cri SOCKET METHOD REQUEST")
	}
	messages, ok := methods[args[1]]
	if !ok {
		return fmt.Errorf("unknown method %q", args[1])
	}
	request, response := messages[0], messages[1]
	if err := json.Unmarshal([]byte(args[2]), request); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	conn, err := grpc.NewClient("unix://"+args[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := conn.Invoke(ctx, "/runtime.v1.RuntimeService/"+args[1], request, response); err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(response)
}
