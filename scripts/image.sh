#!/usr/bin/env bash
# Packs a static binary into a container image, without pulling anything.
#
#   scripts/image.sh BINARY IMAGE
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

binary=$1
image=$2
context=target/image

# A context of its own keeps the engine from reading the whole checkout.
rm -rf "$context"
mkdir -p "$context/state"
install -m 755 "$binary" "$context/meridian"
docker build --quiet -f docker/Dockerfile -t "$image" \
    --label "org.opencontainers.image.revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
    "$context"
printf 'image: %s, %s bytes\n' "$image" "$(docker image inspect --format '{{.Size}}' "$image")"
