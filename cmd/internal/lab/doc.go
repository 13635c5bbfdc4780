// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package lab tests the packaged programs on a machine like those of users: with cgroup v2,
// systemd, AppArmor, and the engines of Debian's next release. It contains only tests.
//
//	make lab
//
// builds an image of the release once (about 1 GB, kept in nvcr-lab in the user's cache directory),
// boots it with User Mode Linux, which needs root but no virtualization, once for each low-level
// runtime, installs the .deb, and runs the tests of package inside and some of the runtime's own
// tests there. NVCR_LAB names the .deb; without it, nothing runs. At the end, it prints a table of
// the checks that pass and compares the table with docs/tested.md, which NVCR_LAB_UPDATE=1 updates.
// NVCR_LAB_RUN is a pattern that selects tests; NVCR_LAB_RELEASES is a list of machines.
//
// The machine has no GPU. testdata/driver.c builds kernel modules that stand in for NVIDIA's, with
// a fixture's device numbers and its files in /proc. The fixture's /sys is overlaid on the
// machine's own.
package lab
