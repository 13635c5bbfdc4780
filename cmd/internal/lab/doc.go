// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package lab tests the packaged programs on a machine as users have them: cgroup v2, systemd,
// AppArmor, and the engines of Debian's next release. There is nothing in it but tests.
//
//	make lab
//
// builds an image of the release once (about 1 GB, kept in the user's cache directory below
// nvcr-lab), boots it with User Mode Linux, which needs root but no virtualization, once for each
// low-level runtime, installs the .deb, and runs the tests of package inside and some of the
// runtime's own in it. NVCR_LAB names the .deb; without it nothing is run. At the end it prints a
// table of what holds, and compares it with docs/tested.md, which NVCR_LAB_UPDATE=1 writes.
// NVCR_LAB_RUN is a pattern of tests, NVCR_LAB_RELEASES a list of machines.
//
// The machine has no GPU. testdata/driver.c makes kernel modules that stand in for NVIDIA's, with
// what a fixture has of device numbers and of /proc; of /sys, the fixture is laid over the
// machine's own.
package lab
