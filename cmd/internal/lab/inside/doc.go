// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package inside has the tests that only a machine with systemd and cgroup v2 can run. Package lab
// boots one and runs them in it. They change that machine as its administrator would: they install
// the package, configure the engines with nvsysfs, and restart them.
package inside
