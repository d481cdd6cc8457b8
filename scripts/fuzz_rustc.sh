#!/bin/sh
# Cargo's RUSTC_WORKSPACE_WRAPPER for `make fuzz`: the data plane is compiled with the counters that libFuzzer looks at, and
# optimised. All of these flags are stable ones; no sanitizer is needed, since the crate forbids unsafe code.
set -eu
case " $* " in
*' --crate-name meridian_edge '*)
    exec "$@" --cfg fuzzing -Copt-level=3 -Ccodegen-units=1 -Cdebug-assertions=on -Coverflow-checks=on \
        -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*)
    exec "$@"
    ;;
esac
