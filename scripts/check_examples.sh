#!/usr/bin/env bash
# Runs every configuration that ships as an example through `meridian check --strict`.
#
#   scripts/check_examples.sh BINARY
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

binary=$1
work=$(mktemp -d "${TMPDIR:-/tmp}/meridian-examples.XXXXXX")
trap 'rm -rf "$work"' EXIT

for file in docker/edge-*/meridian.toml; do
    "$binary" check --strict -c "$file"
done

# Its token comes from a Secret that is mounted in the pod only.
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$work/operator.token"
sed "s#/run/meridian/admin/operator.token#$work/operator.token#" \
    docker/kubernetes/meridian.toml >"$work/meridian.toml"
"$binary" check --strict -c "$work/meridian.toml"
