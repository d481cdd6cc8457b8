#!/usr/bin/env bash
# Runs a measurement under User-mode Linux, which has a limit of open files of its own: for machines whose limit cannot be
# raised. There is one processor, and times mean little; memory and connections do.
#
#   benches/peers/uml.sh --proxy meridian=BINARY --mode idle100k [...]     the arguments of run.py
#
# As root; needs linux.uml (Debian: user-mode-linux) and 8 GiB. PYTHON: an interpreter with what run.py needs.
set -euo pipefail
self=$(readlink -f "$0")

if [ $$ -ne 1 ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    printf '%s\0' "$PWD" "${PYTHON:-python3}" "$@" >"$work/call"
    # The kernel hands what it does not know to its first process, as a variable.
    TMPDIR=/dev/shm linux.uml mem=8G quiet root=/dev/root rootfstype=hostfs rw init="$self" \
        MERIDIAN_CALL="$work" con=null con0=fd:0,fd:1 </dev/null || true
    exit "$(cat "$work/result" 2>/dev/null || echo 1)"
fi

# From here on it is that first process. The files are the machine's own, the network is a loopback.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/run HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
ip link set lo up
ulimit -n 1048576
sysctl -q -w net.ipv4.ip_local_port_range="1024 65535" net.core.somaxconn=8192
mapfile -d '' call <"$MERIDIAN_CALL/call"
cd "${call[0]}"
result=0
"${call[1]}" "$(dirname "$self")/run.py" "${call[@]:2}" || result=$?
echo "$result" >"$MERIDIAN_CALL/result"
sync
echo o >/proc/sysrq-trigger
sleep 10
