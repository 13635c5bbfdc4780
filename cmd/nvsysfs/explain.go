// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/explain"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/fixture"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

func newExplain(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "show what a container would get, and why",
		Long: `Shows what nvidia-container-runtime.experimental would change for the container
in a bundle, and why. Nothing is changed: neither the bundle, nor its root
filesystem, nor a device node. It reads the configuration and environment that
the runtime reads, and where that would fail, it fails with the same message.

With --env, no bundle is needed: it shows what a container with these variables
would get. Its image is laid out like Debian's unless --image names another.`,
		Example: `  nvsysfs explain -e NVIDIA_VISIBLE_DEVICES=0:1 --fixture a100-mig
  nvsysfs explain --bundle /run/containerd/io.containerd.runtime.v2.task/moby/ID`,
		Args: noArguments,
	}
	o := explain.Options{Environ: i.environ}
	flags := cmd.Flags()
	flags.StringVar(&o.Bundle, "bundle", ".", "the bundle's directory `DIR`")
	flags.StringVar(&o.File, "config", "", "read `FILE` instead of the bundle's config.json")
	flags.BoolVar(&o.SystemdCgroup, "systemd-cgroup", false,
		"assume the systemd cgroup driver, for which links in /dev/char matter")
	variables := flags.StringArrayP("env", "e", nil, "explain a container with the variable `NAME=VALUE`; repeatable")
	image := flags.String("image", "", "with --env: `DIR` is the container's root filesystem")
	fixtureName := flags.String("fixture", "", "look at the machine `NAME` from \"nvsysfs fixture list\"")
	isDirectory(cmd, "bundle", "image")
	isOneOf(cmd, "fixture", fixtures.Names()...)
	must(cmd.RegisterFlagCompletionFunc("env", completeVariable))
	cmd.MarkFlagsMutuallyExclusive("env", "bundle")
	cmd.MarkFlagsMutuallyExclusive("env", "config")
	isFile(cmd, "config")
	root, as := rootFlag(cmd, ""), outputFlag(cmd)
	cmd.MarkFlagsMutuallyExclusive("root", "fixture")
	cmd.RunE = func(*cobra.Command, []string) error {
		if *image != "" && len(*variables) == 0 {
			return &usageError{"explain: --image goes with --env"}
		}
		for _, variable := range *variables {
			if name, _, found := strings.Cut(variable, "="); !found || name == "" {
				return &usageError{fmt.Sprintf("%.100q is not NAME=VALUE", variable)}
			}
		}
		o.Root = *root
		if len(*variables) == 0 && *fixtureName == "" {
			return runExplain(i, o, *as, nil) // may be on a host without /tmp
		}
		dir, err := os.MkdirTemp("", "nvsysfs-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		// The names of a fixture's files are those on that machine; what is made here is gone soon.
		var gone []string
		if *fixtureName != "" {
			o.Root = filepath.Join(dir, "machine")
			gone = append(gone, o.Root)
			if err := fixture.Unpack(*fixtureName, o.Root); err != nil {
				return err
			}
		}
		if len(*variables) > 0 {
			o.Bundle = filepath.Join(dir, "bundle")
			gone = append(gone, o.Bundle)
			if err := explain.WriteBundle(o.Bundle, *image, *variables); err != nil {
				return err
			}
		}
		return runExplain(i, o, *as, gone)
	}
	return cmd
}

// runExplain drops the directories from the beginning of the names that it prints.
func runExplain(i invocation, o explain.Options, as outputFormat, gone []string) error {
	e, err := explain.Explain(o)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := as.print(&out, e, e.Text()); err != nil {
		return err
	}
	text := out.Bytes()
	for _, dir := range gone {
		text = bytes.ReplaceAll(text, []byte(dir), nil)
	}
	_, err = i.stdout.Write(text)
	return err
}

// completeVariable completes NVIDIA_VISIBLE_DEVICES with the devices of the machine.
func completeVariable(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	words := []string{"NVIDIA_VISIBLE_DEVICES=all"}
	dir := cmd.Flag("root").Value.String()
	if root, err := plan.OpenRoot(cmp.Or(dir, "/")); err == nil {
		inventory, _ := sysfs.Read(root, true) // nothing to offer then
		for _, gpu := range inventory.GPUs {
			if gpu.Index < 0 {
				continue
			}
			words = append(words, fmt.Sprintf("NVIDIA_VISIBLE_DEVICES=%d", gpu.Index))
			for n := range gpu.Instances {
				words = append(words, fmt.Sprintf("NVIDIA_VISIBLE_DEVICES=%d:%d", gpu.Index, n))
			}
		}
	}
	return append(words, "NVIDIA_DRIVER_CAPABILITIES=all"), cobra.ShellCompDirectiveNoFileComp
}
