#!/usr/bin/env bash
# Prints where llvm-profdata is: what LLVM_PROFDATA names, rustup's (`rustup component add llvm-tools`), or a
# system's that can read what this Rust's LLVM writes. Exit code 1 if there is none.
set -euo pipefail

own=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin/llvm-profdata
for tool in ${LLVM_PROFDATA:+"$LLVM_PROFDATA"} "$own" llvm-profdata-{22,21,20,19}; do
    command -v "$tool" && exit
done
echo 'there is no llvm-profdata: rustup component add llvm-tools, or apt-get install llvm-19' >&2
exit 1
