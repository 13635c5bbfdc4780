# SPDX-FileCopyrightText: The nvidia-container-runtime authors
# SPDX-License-Identifier: Apache-2.0
#
# Reads what "go test -v" prints, and then a line "=== EXIT" with its exit
# status. Prints what go test prints without -v, at the end what was skipped
# and why, which it does not tell, and exits with that status. With
# NVCR_NO_SKIP in the environment, as in CI, a test that was skipped for
# something it needs of the machine is a failure.

BEGIN { status = 1 }

/^=== EXIT / { status = $3; next }
/^=== (RUN|PAUSE|CONT|NAME) / { test = $3; next }

# A test, or a part of one that goes on.
/^ +[^ :]+\.go:[0-9]+: (SKIPPED|NOT TESTED)/ { skip($0); told[test] = 1 }

/^ *--- (PASS|FAIL|SKIP): / {
	if ($2 == "FAIL:") printf "%s\n%s", $0, out[$3]
	if ($2 == "SKIP:" && !told[$3]) skip(out[$3])
	delete out[$3]
	next
}

# The end of a package. What has not ended by then was cut short.
/^(ok  |FAIL|\?   )\t/ {
	last = out[test]
	delete out[test]
	if ($1 == "FAIL") {
		for (t in out) printf "%s", out[t]
		printf "%s", last
	}
	for (t in out) delete out[t]
	for (t in told) delete told[t]
	test = ""
	print
	next
}

/^PASS$/ { next }
test == "" || /^FAIL$/ { print; next }
{ out[test] = out[test] $0 "\n" }

function skip(text) {
	sub(/\n.*/, "", text)
	sub(/^ *[^ :]*:[0-9]+: /, "", text)
	sub(/^(SKIPPED: |NOT TESTED, )/, "", text)
	if (text ~ /^needs / && ENVIRON["NVCR_NO_SKIP"] != "") needed = 1
	if (!count[text]++) reasons[++n] = text
	total++
}

END {
	if (total) {
		printf "\nNOT TESTED on this machine (%d skipped; \"go test -v ./...\" tells where):\n", total
		for (i = 1; i <= n; i++) printf "%5d  %s\n", count[reasons[i]], reasons[i]
	}
	if (needed) {
		print "NVCR_NO_SKIP is set: a test that needs what this machine lacks counts as failed"
		if (!status) status = 1
	}
	exit status
}
