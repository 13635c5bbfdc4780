// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"syscall"

	"github.com/sirupsen/logrus"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/version"
	"github.com/nvsysfs/nvidia-container-runtime/spec"
)

const program = "nvidia-container-runtime.experimental"

// run is the whole program. It returns only if something is wrong: otherwise the low-level runtime
// has replaced it. On success it prints nothing, because engines read what a runtime prints.
func run(argv, environ []string, stdout, stderr io.Writer) int {
	args := argv[1:]
	inv := parseArgs(runcDialect, args)
	if inv.version {
		fmt.Fprintln(stdout, version.Line(program))
	}
	err := start(inv, argv, environ)
	if inv.version {
		return 0 // without a low-level runtime, our version is the answer
	}
	text := bounded(err.Error())
	fmt.Fprintf(stderr, "%s: %s\n", program, text)
	report(inv, text)
	return 1
}

// start prepares the container, if this invocation creates one, and execs the low-level runtime.
func start(inv invocation, argv, environ []string) error {
	args := argv[1:]
	cfg, err := plan.LoadConfig(argv[0], environ)
	runtime := ""
	if err == nil {
		runtime, err = findRuntime(cfg.RuntimePath, cfg.Runtimes, plan.Getenv(environ, "PATH"))
	}
	if !inv.creates() {
		runtime, err = creatorOr(runtime, err, cfg.Runtimes, inv, environ)
	}
	if err != nil {
		return err
	}
	if isCrun(runtime) {
		inv = parseArgs(crunDialect, args)
	}
	if inv.intercepted() && spec.MayAsk(inv.configFile(), cfg.Policy()) {
		log := openLog(cfg.Debug, cfg.LogLevel, inv.debug)
		if err := prepare(cfg, inv, environ, log); err != nil {
			log.Error(err)
			return err
		}
	}
	if inv.resources != "" {
		if args, err = keepDevices(inv, args); err != nil {
			return err
		}
	}
	err = syscall.Exec(runtime, append([]string{runtime}, args...), environ)
	return fmt.Errorf("executing the low-level runtime %s: %w", runtime, err)
}

// prepare gives the container what it requests. It does not touch containers that request nothing.
func prepare(cfg plan.Config, inv invocation, environ []string, log *logrus.Logger) error {
	doc, err := spec.OpenFile(inv.configFile())
	if err != nil {
		return err
	}
	defer doc.Close()
	facts, err := doc.Facts()
	if err != nil {
		return err
	}
	request, asked, err := spec.NewRequest(facts, cfg.Policy())
	for _, note := range request.Notes {
		log.Warn(note)
	}
	if err != nil || !asked {
		return err
	}
	if cfg.Debug != "" {
		findings, err := cfg.Check()
		if err != nil {
			return err
		}
		for _, f := range findings {
			log.Warn(f)
		}
	}

	container := plan.Container{
		Request: request, Facts: facts, Bundle: inv.bundle, Path: plan.Getenv(environ, "PATH"),
		SystemdCgroup: inv.systemdCgroup,
	}
	p, err := plan.New(cfg, container)
	if err != nil {
		return err
	}
	if err := checkRestore(inv, p.Inventory.Driver.Version); err != nil {
		return err
	}
	notes, err := p.Carry(doc)
	for _, note := range notes {
		log.Info(note)
	}
	return err
}
