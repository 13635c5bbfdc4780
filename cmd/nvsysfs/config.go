// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

func newConfig(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "check config.toml",
		Long: `Checks config.toml, the configuration of nvidia-container-runtime.experimental.
"nvsysfs info -o wide" shows each key's value.`,
		Example: `  nvsysfs config check
  nvsysfs config check /tmp/config.toml`,
	}
	cmd.AddCommand(newConfigCheck(i))
	return cmd
}

func newConfigCheck(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "find settings without effect",
		Long: `Finds settings without effect in config.toml, or in FILE: keys in the wrong
table, misspelled keys, unknown values, a log that cannot be written. Keys of
NVIDIA's programs are ignored. The exit status is 1 if anything is found.`,
		Example: `  nvsysfs config check
  nvsysfs config check /tmp/config.toml`,
		Args: cobra.MaximumNArgs(1),
	}
	dir := rootFlag(cmd, "")
	cmd.RunE = func(_ *cobra.Command, args []string) error { return runConfigCheck(i, *dir, args) }
	return cmd
}

func runConfigCheck(i invocation, dir string, files []string) error {
	environ, err := plan.Below(dir, i.environ)
	if err != nil {
		return err
	}
	if len(files) > 0 {
		name, err := filepath.Abs(files[0])
		if err != nil {
			return err
		}
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("config check: no file %q; omit FILE to check the active configuration", files[0])
		} else if err != nil {
			return fmt.Errorf("config check: %w", err)
		}
		environ = append(environ, "NVIDIA_CTK_CONFIG_FILE_PATH="+name)
	}
	cfg, err := plan.LoadConfig("", environ)
	if err != nil {
		return fmt.Errorf("config check: no container starts: %w", err)
	}
	findings, err := cfg.Check()
	if err != nil {
		return err
	}
	for _, f := range findings {
		if _, err := fmt.Fprintln(i.stdout, f); err != nil {
			return err
		}
	}
	if len(findings) > 0 {
		return errors.New("config check: " + counted(len(findings), "problem", "problems"))
	}
	what := "no problems found"
	if _, err := sysfs.Root("/").Stat(cfg.File[1:]); err != nil {
		what = "no such file: the defaults apply"
	}
	_, err = fmt.Fprintf(i.stdout, "%s: %s\n", cfg.File, what)
	return err
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
