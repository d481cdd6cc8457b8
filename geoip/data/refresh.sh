#!/usr/bin/env bash
# Replaces the embedded country database by the newest one of the npm registry, or by the version
# named as the first argument. Needs npm and node. Nothing is replaced unless all checks pass:
# the package matches the registry's integrity hash, its licence is still CC0-1.0, and the file ends
# like a MaxMind database and is of a plausible size.
set -euo pipefail

package='@ip-location-db/geo-whois-asn-country-mmdb'
wanted="${1:-latest}"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

fail() {
    echo "refresh.sh: $*" >&2
    exit 1
}

version="$(npm view --silent "$package@$wanted" version)"
integrity="$(npm view --silent "$package@$wanted" dist.integrity)"
licence="$(npm view --silent "$package@$wanted" license)"
[[ -n "$version" && "$integrity" == sha512-* ]] || fail "no version $wanted of $package"
[[ "$licence" == CC0-1.0 ]] || fail "the licence of $version is '$licence', not CC0-1.0"

cd "$work"
archive="$(npm pack --silent "$package@$version")"
computed="sha512-$(node -e '
    const { createHash } = require("node:crypto");
    const { readFileSync } = require("node:fs");
    console.log(createHash("sha512").update(readFileSync(process.argv[1])).digest("base64"));
' "$archive")"
[[ "$computed" == "$integrity" ]] || fail "$archive: $computed, but the registry says $integrity"

tar -xzf "$archive"
database="package/geo-whois-asn-country.mmdb"
[[ -s "$database" ]] || fail "$archive has no $database"
size="$(stat -c %s "$database")"
((size > 1000000 && size < 16000000)) || fail "$database has $size bytes: look before shipping it"
tail -c 4096 "$database" | LC_ALL=C grep -aq 'MaxMind\.com' ||
    fail "$database: no metadata at its end"
[[ -s package/NRO_LICENSE ]] || fail "$archive has no NRO_LICENSE: read what its licence is now"

cp "$database" "$here/country.mmdb.new"
mv "$here/country.mmdb.new" "$here/country.mmdb"
{ cat package/NRO_LICENSE; echo; } > "$here/LICENSE-NRO"
printf '%s %s\n%s\n' "$package" "$version" "$integrity" > "$here/country.version"
echo "$package $version ($size bytes); now run: cargo nextest run -p meridian-geoip"
