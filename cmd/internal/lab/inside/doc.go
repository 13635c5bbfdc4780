// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package inside has the tests that need a machine with systemd and cgroup v2. Package lab boots
// one and runs them there. They change that machine as its administrator would: they install the
// package, configure the engines with nvsysfs, and restart them.
package inside
