#!/usr/bin/env bash
# Coverage-guided fuzzing of the request path for so many seconds on one core, at a low priority: bytes against the law of
# proxy/edge/src/fuzzing. What it learns on the way stays in target/fuzz/requests; a finding is a file named crash-*
# in target/fuzz. Copy a finding, made small with -minimize_crash=1, into tests/fuzz/corpus/requests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:?fuzz.sh SECONDS}

RUSTC_WORKSPACE_WRAPPER="$PWD/scripts/fuzz_rustc.sh" \
    cargo build --locked -p meridian-fuzz --features libfuzzer
mkdir -p target/fuzz/requests
exec nice -n 19 target/debug/fuzz-requests -max_total_time="$seconds" -max_len=4096 -timeout=10 \
    -rss_limit_mb=2048 -print_final_stats=1 -dict=tests/fuzz/requests.dict -artifact_prefix=target/fuzz/ \
    target/fuzz/requests tests/fuzz/corpus/requests
