#!/usr/bin/env bash
# Holds very many idle connections on one core of mqttd, each with a subscription and a keep alive, beside a load of
# pairs at a fixed rate whose latency is looked at before, while they connect, while all are there, and after. At the
# end some or all of the connections get a message. Prints markdown.
#
# Usage: benches/many.sh [OPTION]... > many.md
#   --connections N   idle connections (1000000)
#   --keep-alive N    seconds of their keep alive; each sends a PINGREQ in half of it (600)
#   --probes N        connections that get a message at the end (all)
#   --pairs N         pairs beside them (50)
#   --rate N          messages a second of all pairs together (2000)
#   --slice N         seconds of each look at their latency (10)
#   --hold N          seconds that all connections stay before they get the messages (60)
#   --raw DIRECTORY   keeps the reports as JSON
#
# mqttd is on CPU 0, everything else on CPU 1. As root, mqttd and the pairs have a higher priority than the processes with
# the idle connections, so that latency is the broker's and not theirs. Two sockets a connection take about 8 KB of the kernel's memory, so a million
# needs about 10 GB. Needs bash, taskset and jq, and root to see the kernel's memory. From the root of the repository:
#     cargo build --release -p mqtt-bin -p mqtt-benches && benches/many.sh > many.md
set -euo pipefail

target=${CARGO_TARGET_DIR:-target}
mqttd=${MQTTD:-$target/release/mqttd}
load=${MQTT_LOAD:-$target/release/mqtt-load}
connections=1000000 keep_alive=600 probes= pairs=50 rate=2000 slice=10 hold=60 raw=

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2
    exit "$1"
}
while (($#)); do
    case $1 in
    --connections) connections=$2 && shift ;;
    --keep-alive) keep_alive=$2 && shift ;;
    --probes) probes=$2 && shift ;;
    --pairs) pairs=$2 && shift ;;
    --rate) rate=$2 && shift ;;
    --slice) slice=$2 && shift ;;
    --hold) hold=$2 && shift ;;
    --raw) raw=$2 && shift ;;
    -h | --help) usage 0 ;;
    *) usage 2 ;;
    esac
    shift
done
probes=${probes:-$connections}

work=${raw:-$(mktemp -d)}
mkdir -p "$work"
broker= idle=
finish() {
    [[ -z $idle ]] || kill "$idle" 2>/dev/null || true
    [[ -z $broker ]] || kill "$broker" 2>/dev/null || true
    [[ -n $raw ]] || rm -rf "$work"
}
trap finish EXIT

first=()
if nice -n -15 true 2>/dev/null; then first=(nice -n -15); fi
port=$((20000 + $$ % 10000))
"${first[@]}" taskset -c 0 "$mqttd" --cores 1 --listen "127.0.0.1:$port" --connections-max $((connections + 10000)) --log warn &
broker=$!
for _ in {1..100}; do
    if (: </dev/tcp/127.0.0.1/"$port") 2>/dev/null; then break; fi
    sleep 0.1
done

# Connections on this machine; both ends of each are.
count() { awk '/^TCP:/ { print int($3 / 2) }' /proc/net/sockstat; }
resident() { awk '/^VmRSS:/ { print $2 * 1024 }' "/proc/$broker/status"; }

rows=()
# look NAME: one slice of the pairs' latency.
look() {
    local begin end report=$work/paced-${#rows[@]}.json
    begin=$(count)
    "${first[@]}" taskset -c 1 "$load" paced --pairs "$pairs" --rate "$rate" --warm-up 1 --duration "$slice" \
        --broker "127.0.0.1:$port" --pid "$broker" --json >"$report" || true
    end=$(count)
    local name=$1
    if [[ -z $name ]]; then
        if ((begin >= connections && end >= connections)); then
            name="all there"
        elif ((end >= begin)); then
            name=connecting
        else
            name=leaving
        fi
    fi
    rows+=("$(jq -r --arg name "$name" --arg from "$begin" --arg to "$end" --arg rss "$(resident)" '
        "| \($name) | \($from) to \($to) | \(.latency_p50_us) | \(.latency_p99_us) | \(.["latency_p99.9_us"]) | "
        + "\(.latency_max_us) | \($rss | tonumber / 1e6 | round) |"' "$report")")
}

look before
taskset -c 1 "$load" idle --connections "$connections" --keep-alive "$keep_alive" --hold "$hold" \
    --probes "$probes" --broker "127.0.0.1:$port" --pid "$broker" --json >"$work/idle.json" &
idle=$!
while kill -0 "$idle" 2>/dev/null; do look ""; done
wait "$idle" || true
idle=
# What is left of them goes.
for _ in {1..120}; do
    if (($(count) < 1000)); then break; fi
    sleep 1
done
look after

echo "$connections connections, keep alive $keep_alive s, beside $pairs pairs at $rate messages a second:"
echo
echo "| when | connections on this machine | p50 us | p99 us | p99.9 us | max us | resident MB |"
echo "|---|---|---|---|---|---|---|"
printf '%s\n' "${rows[@]}"
echo
echo "| | |"
echo "|---|---|"
jq -r 'to_entries[] | select(.key != "violation_texts" and .key != "steps")
    | "| \(.key | gsub("_"; " ")) | \(.value) |"' "$work/idle.json"
jq -e '.violations == 0' "$work/idle.json" >/dev/null
