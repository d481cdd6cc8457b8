#!/usr/bin/env bash
# Builds the binary with the C library inside, so that it runs in an image made FROM scratch, and
# proves it.
#
#   scripts/static.sh PROFILE BINARY      BINARY: where Cargo puts it, target/TRIPLE/PROFILE/meridian
#
# --target is what keeps crt-static away from procedural macros, which are shared objects. It also
# gives the static build a directory of its own: target/release stays the everyday build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Build scripts run make: called from a Makefile, they must not see its flags and variables.
unset MAKEFLAGS MFLAGS DESTDIR

profile=$1
binary=$2
host=$(rustc -vV | sed -n 's/^host: //p')

MERIDIAN_REVISION=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown) \
    RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
    cargo build --locked --profile "$profile" --target "$host" -p meridian

linkage=$(ldd "$binary" 2>&1 || true)
case $linkage in
*"statically linked"* | *"not a dynamic executable"*) ;;
*)
    printf 'static: %s needs shared objects:\n%s\n' "$binary" "$linkage" >&2
    exit 1
    ;;
esac

# An empty root directory has no C library, no resolver configuration and no certificates.
if [ "$(id -u)" -eq 0 ]; then
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    cp "$binary" "$root/meridian"
    chroot "$root" /meridian version
else
    "$binary" version
fi
printf 'static: %s, %s bytes\n' "$binary" "$(stat -c %s "$binary")"
