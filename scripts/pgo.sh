#!/usr/bin/env bash
# Builds the static binary with profile-guided optimisation: once with counters inside, then, after
# it has served what a proxy serves, once more by what was counted.
#
#   scripts/pgo.sh PROFILE BINARY      BINARY: where Cargo puts it, target/TRIPLE/PROFILE/meridian
#
# Both builds must be of the same source, profile and compiler; scripts/profdata.sh says what sums the counters up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=$1
binary=$2
host=$(rustc -vV | sed -n 's/^host: //p')
work=$PWD/target/pgo
python=target/bench-venv/bin/python

tool=$(scripts/profdata.sh)
rm -rf "$work/counts"
CARGO_TARGET_DIR=$work RUSTFLAGS="-C profile-generate=$work/counts" \
    scripts/static.sh "$profile" "$work/$host/$profile/meridian"

# All that the yardstick asks for, access logs, and a while of mixed clients, deaths and reloads.
trained=$work/$host/$profile/meridian
$python benches/peers/run.py --proxy meridian="$trained" --rounds 1 --seconds 1 \
    --mode h1,browser,h2,tls1,tls2,big,post,shake,rate,log >"$work/training.log"
$python benches/peers/soak.py --binary "$trained" --minutes 1 >>"$work/training.log" ||
    echo 'pgo: the mixed load did not look well, which says nothing of the binary to come' >&2

"$tool" merge --sparse -o "$work/meridian.profdata" "$work"/counts/*.profraw
RUSTFLAGS="-C profile-use=$work/meridian.profdata" scripts/static.sh "$profile" "$binary"
