#!/usr/bin/env bash
# Installs what Meridian needs on a Debian 12 machine that has only Rust. Safe to run again: what is
# there already is left alone, and a machine that has everything is not touched at all.
#
#   scripts/setup.sh [build] [check] [test] [fuzz] [consistency] [front-door] [conformance] [bench] [pgo] [image]
#
#   build   C compiler, cmake, make (always included)
#   check   python3, shellcheck, promtool: what `make check` runs besides Cargo
#   test    peers, load generators, a Python environment in target/venv, cargo-nextest
#   fuzz    a C++ compiler, for libFuzzer
#   consistency  PostgreSQL 15, Patroni, etcd, Node with pg in target/consistency-node, and the Python environment
#   front-door  testssl.sh, slowhttptest, Chromium, smugglex, sslyze in target/front-door-venv, and the Python environment
#   conformance  the httpwg command: public cases of HTTP/2
#   bench   peers, load generators, and matplotlib in target/bench-venv: what benches/peers needs
#   pgo     the same, and llvm-profdata unless there is one
#   image   a container engine, docker-compose, and what the image test looks with
#
# Services of installed packages (nginx, haproxy, docker, prometheus, postgresql, patroni, etcd) are neither started nor enabled. Without
# apt-get it installs nothing and says what is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Build scripts run make: called from a Makefile, they must not see its flags and variables.
unset MAKEFLAGS MFLAGS DESTDIR

nextest_version=0.9.143
httpwg_version=0.2.5
smugglex_version=0.4.0
node_pg_version=8.23.1
units=({nginx,haproxy,docker,containerd,prometheus,postgresql,patroni,etcd}.service docker.socket)
policy=/usr/sbin/policy-rc.d
missing=()
need_venv=no
need_bench_venv=no
need_nextest=no
need_httpwg=no
need_smugglex=no
need_front_door_venv=no
need_node_pg=no

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

# want COMMAND PACKAGE: note the package if the command is not on the path.
want() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null || missing+=("$2")
}

want_build() {
    command -v cargo >/dev/null || fail "cargo is missing: install Rust $(rust_floor) or newer first"
    want cc gcc
    want make make
    want cmake cmake
    [ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
    want git git
}

rust_floor() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

want_check() {
    want python3 python3
    want shellcheck shellcheck
    want promtool prometheus
}

want_peers() {
    want python3 python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    want wrk wrk
    want nginx nginx-light
    want haproxy haproxy
    want h2load nghttp2-client
    want openssl openssl
}

want_test() {
    want_peers
    want valgrind valgrind
    want ip iproute2
    want curl curl
    want iptables iptables
    want unshare util-linux
    want mount mount
    want setpriv util-linux
    want faketime faketime
    want pebble pebble
    need_venv=yes
    need_nextest=yes
}

want_fuzz() {
    want c++ g++
}

want_consistency() {
    want python3 python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql-15)
    want patroni patroni
    want etcd etcd-server
    want ip iproute2
    want iptables iptables
    want unshare util-linux
    want setpriv util-linux
    want taskset util-linux
    want node nodejs
    want npm npm
    need_venv=yes
    need_node_pg=yes
}

want_front_door() {
    want python3 python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    want nginx nginx-light
    want openssl openssl
    want curl curl
    want testssl testssl.sh
    want hexdump bsdextrautils
    want slowhttptest slowhttptest
    want chromium chromium
    want ip iproute2
    want unshare util-linux
    want setpriv util-linux
    need_venv=yes
    need_smugglex=yes
    need_front_door_venv=yes
}

want_conformance() {
    want python3 python3
    need_httpwg=yes
}

want_bench() {
    want_peers
    want taskset util-linux
    want setpriv util-linux
    need_bench_venv=yes
}

want_pgo() {
    want_bench
    scripts/profdata.sh >/dev/null 2>&1 || missing+=(llvm-19)
}

want_image() {
    want docker docker.io
    want dockerd docker.io
    want iptables iptables
    docker compose version >/dev/null 2>&1 || want docker-compose docker-compose
    want curl curl
    want file file
    want nsenter util-linux
    want ip iproute2
    want python3 python3
}

# Runs apt-get so that no package starts a service, and removes the ban afterwards.
install_packages() {
    command -v apt-get >/dev/null || fail "no apt-get here; please install: $*"
    [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null || fail "as root, please: apt-get install $*"
    say "installing $*"
    local banned=no unit
    local fresh=()
    for unit in "${units[@]}"; do
        known_unit "$unit" || fresh+=("$unit")
    done
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
        banned=yes
    fi
    local result=0
    mkdir -p target
    { apt_get update && apt_get install --no-install-recommends "$@"; } >target/setup.log 2>&1 ||
        result=$?
    [ "$banned" = no ] || as_root rm -f "$policy"
    for unit in "${fresh[@]}"; do
        if known_unit "$unit"; then disable "$unit"; fi
    done
    [ "$result" -eq 0 ] || {
        tail -n 20 target/setup.log >&2
        fail "apt-get failed with code $result; all it said is in target/setup.log"
    }
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get -y -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null
}

known_unit() { [ -e "/lib/systemd/system/$1" ]; }

# Debian packages enable what they install; these stay off at the next boot, too.
disable() {
    if command -v systemctl >/dev/null; then
        as_root systemctl disable "$1"
    elif [ -e "/etc/init.d/${1%.*}" ]; then
        as_root update-rc.d "${1%.*}" disable
    fi
} >>target/setup.log 2>&1

# make_venv FOLDER REQUIREMENTS: the environment carries the digest of what it was made from.
make_venv() {
    local folder=$1 requirements=$2
    local want stamp=$folder/.requirements
    want=$(sha256sum <"$requirements")
    [ -x "$folder/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && return
    say "making $folder"
    mkdir -p target
    python3 -m venv --clear "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
        -r "$requirements" </dev/null
    printf '%s\n' "$want" >"$stamp"
}

make_nextest() {
    PATH="$PWD/target/tools/bin:$PATH" cargo nextest --version >/dev/null 2>&1 && return
    say "building cargo-nextest $nextest_version into target/tools (a few minutes, once)"
    cargo install cargo-nextest --version "$nextest_version" --locked --quiet \
        --root target/tools </dev/null ||
        say "cargo-nextest could not be built; the tests will run under plain cargo test"
}

make_node_pg() {
    local folder=target/consistency-node
    grep -qs "\"version\": \"$node_pg_version\"" "$folder/node_modules/pg/package.json" && return
    say "installing pg $node_pg_version for Node into $folder"
    mkdir -p "$folder"
    npm install --prefix "$folder" --no-audit --no-fund --silent "pg@$node_pg_version" </dev/null
}

make_smugglex() {
    [ -x target/tools/bin/smugglex ] && grep -q "^\"smugglex $smugglex_version " target/tools/.crates.toml && return
    say "building smugglex $smugglex_version into target/tools (two minutes, once)"
    cargo install smugglex --version "$smugglex_version" --locked --quiet \
        --root target/tools </dev/null
}

make_httpwg() {
    [ -x target/tools/bin/httpwg ] && grep -q "^\"httpwg-cli $httpwg_version " target/tools/.crates.toml && return
    say "building httpwg-cli $httpwg_version into target/tools (a minute, once)"
    cargo install httpwg-cli --version "$httpwg_version" --locked --quiet \
        --root target/tools </dev/null
}

want_build
for part in "$@"; do
    case $part in
    build) ;;
    check | test | fuzz | consistency | front-door | conformance | bench | pgo | image) "want_${part//-/_}" ;;
    *) fail "unknown part '$part'; one of: build check test fuzz consistency front-door conformance bench pgo image" ;;
    esac
done

if [ ${#missing[@]} -gt 0 ]; then
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    install_packages "${missing[@]}"
fi
[ "$need_venv" = no ] || make_venv target/venv tests/requirements.txt
[ "$need_bench_venv" = no ] || make_venv target/bench-venv benches/peers/requirements.txt
[ "$need_nextest" = no ] || make_nextest
[ "$need_httpwg" = no ] || make_httpwg
[ "$need_node_pg" = no ] || make_node_pg
[ "$need_smugglex" = no ] || make_smugglex
[ "$need_front_door_venv" = no ] || make_venv target/front-door-venv tests/front_door/requirements.txt
