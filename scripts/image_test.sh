#!/usr/bin/env bash
# Builds the image, starts docker/compose.yaml with it and looks at what a user would: where requests
# go, a drain, a killed region, an edited file, the metrics, and how an edge ends.
#
#   scripts/image_test.sh [--if-no-engine fail|skip] BINARY
#
# An engine that already answers is used. Otherwise a dockerd of its own is started, in network and
# mount namespaces of its own, so that the machine's interfaces and firewall stay as they are; it is
# ended by its process id. Exit codes: 0 passed (or skipped, which it says), 1 failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if_no_engine=fail
if [ "${1:-}" = --if-no-engine ]; then
    if_no_engine=$2
    shift 2
fi
binary=$1

export PATH="$PATH:/usr/sbin:/sbin"
export MERIDIAN_IMAGE=meridian:test
export EDGE_US_PORT=18081 EDGE_EU_PORT=18082
project=meridian-image-test
work=$(mktemp -d "${TMPDIR:-/tmp}/meridian-image.XXXXXX")
engine=
topology=no
passed=0

say() { printf 'image-test: %s\n' "$*"; }

# ---------------------------------------------------------------------------- the engine

start_engine() {
    [ "$(id -u)" -eq 0 ] && command -v dockerd >/dev/null || return 1
    local flags
    export DOCKER_HOST="unix://$work/engine.sock"
    for flags in "" "--storage-driver=vfs" "--storage-driver=vfs --iptables=false"; do
        say "starting dockerd $flags"
        # shellcheck disable=SC2086,SC2016
        unshare --net --mount bash -c 'ip link set lo up && exec dockerd "$@"' dockerd $flags \
            --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/engine.pid" \
            --host "$DOCKER_HOST" </dev/null >>"$work/engine.log" 2>&1 &
        engine=$!
        local deadline=$((SECONDS + 30))
        while kill -0 "$engine" 2>/dev/null && [ $SECONDS -lt $deadline ]; do
            docker info >/dev/null 2>&1 && return 0
            sleep 0.2
        done
        stop_engine
    done
    unset DOCKER_HOST
    return 1
}

stop_engine() {
    [ -n "$engine" ] || return 0
    kill "$engine" 2>/dev/null || true
    wait "$engine" 2>/dev/null || true
    engine=
}

# Published ports are on the loopback address of the engine's network namespace.
beside_engine() {
    if [ -n "$engine" ]; then
        nsenter --target "$engine" --net -- "$@"
    else
        "$@"
    fi
}

compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose -p "$project" -f "$work/docker/compose.yaml" "$@"
    else
        docker-compose -p "$project" -f "$work/docker/compose.yaml" "$@"
    fi
}

finish() {
    local code=$?
    trap - EXIT
    if [ "$topology" = yes ]; then
        if [ $code -ne 0 ]; then compose logs --no-color --tail=40 >&2 || true; fi
        compose down --volumes --timeout 5 >"$work/down.log" 2>&1 || cat "$work/down.log" >&2
    fi
    stop_engine
    rm -rf "$work"
    exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

# ---------------------------------------------------------------------------- looking

# request PORT CLIENT PATH [CURL ARGUMENTS]
request() {
    local url=http://127.0.0.1:$1$3 client=$2
    shift 3
    beside_engine curl --silent --max-time 5 --header "X-Forwarded-For: $client" "$@" "$url"
}

# served_by PORT CLIENT PATH [CURL ARGUMENTS]: "STATUS REGION", as the edge reports them.
served_by() {
    request "$@" --output /dev/null --dump-header "$work/head" || true
    tr -d '\r' <"$work/head" | awk '
        /^HTTP\// { status = $2 }
        tolower($1) == "meridian-served-by:" { sub(";.*", "", $2); region = $2 }
        END { print status, region }'
}

# within SECONDS WHAT EXPECTED COMMAND...: the command's output becomes the pattern in time.
within() {
    local deadline=$((SECONDS + $1)) what=$2 expected=$3 seen=
    shift 3
    while :; do
        seen=$("$@" 2>&1 || true)
        # shellcheck disable=SC2254
        case $seen in
        $expected)
            passed=$((passed + 1))
            say "ok: $what"
            return
            ;;
        esac
        [ $SECONDS -lt $deadline ] || break
        sleep 0.2
    done
    say "FAILED: $what: expected '$expected', last saw '$seen'" >&2
    exit 1
}

container() { compose ps -q "$1"; }
health() { docker inspect --format '{{.State.Health.Status}}' "$(container "$1")"; }
meridian() { docker exec "$(container "$1")" /meridian "${@:2}"; }
exit_code() { docker inspect --format '{{.State.Status}} {{.State.ExitCode}}' "$1"; }

# The admin listener is on the container's own loopback address.
metrics() {
    local pid
    pid=$(docker inspect --format '{{.State.Pid}}' "$(container "$1")")
    nsenter --target "$pid" --net -- curl --silent --fail --max-time 5 \
        http://127.0.0.1:9901/metrics >"$work/metrics"
}

metrics_names() {
    metrics "$1" && scripts/check_metrics_names.py --metrics "$work/metrics"
}

# Until the health checker has seen the death, it is a failed connection and not yet a refusal.
refusals() {
    request "$eu" $dublin /eu-data >"$work/body"
    metrics edge-eu && grep -o 'meridian_refusals_total.*route="eu-data".*' "$work/metrics"
}

# An editor's way: a new file, renamed over the old one.
drain_in_file() {
    local file=$work/docker/$1/meridian.toml
    awk -v region="id = \"$2\"" '{ print } $0 == region { print "drain = true" }' "$file" >"$file.new"
    mv "$file.new" "$file"
}

# ---------------------------------------------------------------------------- the test

if docker info >/dev/null 2>&1; then
    say "using the engine that is running"
elif ! start_engine; then
    say "no container engine is running and none can be started on this machine:" >&2
    tail -n 5 "$work/engine.log" >&2 2>/dev/null || true
    if [ "$if_no_engine" = skip ]; then
        say "NOT RUN: the image was neither built nor tested"
        exit 0
    fi
    exit 1
fi

scripts/image.sh "$binary" "$MERIDIAN_IMAGE"
# A copy, because the test edits it; readable for the image's user.
mkdir "$work/docker"
cp -r docker/compose.yaml docker/edge-us docker/edge-eu "$work/docker/"
chmod -R a+rX "$work"
topology=yes
compose up -d >"$work/up.log" 2>&1 || { cat "$work/up.log" >&2 && exit 1; }

tokyo=133.11.0.1
dublin=134.226.0.1
us=$EDGE_US_PORT
eu=$EDGE_EU_PORT

within 60 "edge-us reports healthy" healthy health edge-us
within 60 "edge-eu reports healthy" healthy health edge-eu
within 10 "a read from Tokyo goes to Singapore" "200 ap-southeast-1" served_by "$us" $tokyo /
within 10 "a read from Dublin goes to Ireland" "200 eu-west-1" served_by "$eu" $dublin /
within 5 "a write from Dublin goes to the primary" "2?? us-east-1" \
    served_by "$eu" $dublin /kv/greeting --request PUT --data hello
within 10 "the replica in Ireland has it in time" hello request "$eu" $dublin /kv/greeting
within 0 "a resident is served at home" "200 eu-west-1" served_by "$eu" $dublin /eu-data
meridian edge-us drain ap-southeast-1 >"$work/drain.log" 2>&1 || { cat "$work/drain.log" >&2 && exit 1; }
within 0 "a drained region gets nothing from then on" "200 [!a]*" served_by "$us" $tokyo /
within 0 "the other edge goes its own way" "200 ap-southeast-1" served_by "$eu" $tokyo /
meridian edge-us undrain ap-southeast-1 >"$work/drain.log" 2>&1 || { cat "$work/drain.log" >&2 && exit 1; }
within 0 "an undrained region is back" "200 ap-southeast-1" served_by "$us" $tokyo /
docker kill "$(container eu-west-1)" >/dev/null
within 10 "a killed region is left" "200 [!e]*" served_by "$eu" $dublin /
within 0 "a resident is refused rather than served abroad" "503 " \
    served_by "$eu" $dublin /eu-data
within 10 "the refusal is counted with its filter" "*health*" refusals
docker start "$(docker ps -aq --filter "label=com.docker.compose.project=$project" \
    --filter label=com.docker.compose.service=eu-west-1)" >/dev/null
within 20 "a revived region is used again" "200 eu-west-1" served_by "$eu" $dublin /
drain_in_file edge-eu ap-southeast-1
within 10 "an edited file is followed" "200 [!a]*" served_by "$eu" $tokyo /
within 5 "dashboard and alerts name real metrics" "metric names: * 0 findings" metrics_names edge-eu
edge=$(container edge-us)
docker stop --time 20 "$edge" >/dev/null
within 0 "an edge ends in order" "exited 0" exit_code "$edge"
say "all $passed passed"
