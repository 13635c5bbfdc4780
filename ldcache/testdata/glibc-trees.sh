#!/bin/sh
# SPDX-FileCopyrightText: The nvidia-container-runtime authors
# SPDX-License-Identifier: Apache-2.0
#
# Unpacks small root trees that hold the C library, loader and ldconfig of
# other Debian releases, for the tests of this package that run those on the
# caches it writes. For Debian on amd64; needs neither root nor more than the
# apt and dpkg of the machine, and leaves their state alone. The mirror is the
# one the machine's own apt is configured with, or DEBIAN_MIRROR.
#
#	GLIBC_TREES=$HOME/.cache/glibc-trees sh ldcache/testdata/glibc-trees.sh
#	GLIBC_TREES=$HOME/.cache/glibc-trees go test -run Trees ./ldcache
#
# A tree that is there already is not fetched again.
set -eu

: "${GLIBC_TREES:?is not set: name the directory to unpack into}"
mkdir -p "$GLIBC_TREES"
trees=$(cd "$GLIBC_TREES" && pwd)

mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(ORIGIN) $(LABEL) $(COMPONENT) $(CREATED_BY) $(REPO_URI)' |
	awk '$1 == "Debian" && $2 == "Debian" && $3 == "main" && $4 == "Packages" { print $5; exit }')}
if [ -z "$mirror" ]; then
	echo "glibc-trees: apt knows no Debian archive (has apt-get update run?), and DEBIAN_MIRROR is not set" >&2
	exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# fetch TREE SUITE PACKAGE...: packages of amd64, or of the architecture after
# a colon.
fetch() {
	tree=$1 suite=$2
	shift 2
	if [ -e "$trees/$tree/.complete" ]; then
		echo "glibc-trees: $tree is there"
		return
	fi
	state=$work/$tree
	mkdir -p "$state/lists/partial" "$state/archives/partial" "$state/debs" "$state/none"
	: >"$state/status"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$state/sources.list"
	apt() {
		apt-get -qq -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts="$state/none" \
			-o Dir::Etc::Preferences="$state/none/none" -o Dir::Etc::PreferencesParts="$state/none" \
			-o Dir::State::Lists="$state/lists" -o Dir::State::Status="$state/status" \
			-o Dir::Cache="$state" -o Dir::Cache::Archives="$state/archives" \
			-o APT::Architecture=amd64 -o APT::Architectures::=amd64 $foreign \
			-o Acquire::Languages=none -o APT::Sandbox::User= \
			-o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
	}
	# An archive that is being mirrored just now has lists that do not fit each
	# other; another moment later they may.
	apt update || apt update || return 1
	(cd "$state/debs" && apt download "$@") || return 1
	rm -rf "${trees:?}/$tree"
	mkdir -p "$trees/$tree"
	for deb in "$state"/debs/*.deb; do
		dpkg-deb -x "$deb" "$trees/$tree" || return 1
	done
	# Releases with a merged /usr leave these links to another package.
	for dir in bin sbin lib lib64; do
		if [ ! -e "$trees/$tree/$dir" ] && [ -d "$trees/$tree/usr/$dir" ]; then
			ln -s "usr/$dir" "$trees/$tree/$dir"
		fi
	done
	touch "$trees/$tree/.complete"
	echo "glibc-trees: $tree"
}

# 2.31 is older than the machine's, 2.41 newer; the library of 2.36 that i386
# has for amd64 lies in /lib64, as other distributions have it. One that cannot
# be had today is said and left out, as long as two are left.
had=0
get() {
	if fetch "$@"; then had=$((had + 1)); else echo "glibc-trees: $1 CANNOT BE HAD" >&2; fi
}
foreign=
get bullseye bullseye libc6 libc-bin
get bookworm bookworm libc6 libc-bin
get trixie trixie libc6 libc-bin
foreign="-o APT::Architectures::=i386"
get bookworm-lib64 bookworm libc6-amd64:i386 libc-bin:i386
if [ "$had" -lt 2 ]; then
	exit 1
fi
