#!/usr/bin/env bash
# Holds very many idle connections on one core of mqttd, each with a subscription and a keep alive, beside a load of
# pairs at a fixed rate whose latency is looked at, slice by slice: before, while they connect, while they subscribe, while
# all are there, while some or all of them get a message, while they leave, and after. A phase shorter than a slice may
# have none. Prints markdown.
#
# Usage: benches/many.sh [OPTION]... > many.md
#   --connections N   idle connections (1000000)
#   --keep-alive N    seconds of their keep alive; each sends a PINGREQ in half of it (600)
#   --probes N        connections that get a message at the end (all)
#   --pairs N         pairs beside them (50)
#   --rate N          messages a second of all pairs together (2000)
#   --slice N         seconds of each look at their latency (6)
#   --hold N          seconds that all connections stay before they get the messages (60)
#   --raw DIRECTORY   keeps the reports as JSON
#
# mqttd is on CPU 0, everything else on CPU 1. As root, mqttd and the pairs have a higher priority than the processes with
# the idle connections, so that latency is the broker's and not theirs. Two sockets a connection take about 8 KB of the kernel's memory, so a million
# needs about 10 GB. Needs bash, taskset and jq, and root to see the kernel's memory. From the root of the repository:
#     cargo build --release -p mqtt-bin -p mqtt-benches && benches/many.sh > many.md
set -euo pipefail
# EPOCHREALTIME has a point in it.
export LC_ALL=C

target=${CARGO_TARGET_DIR:-target}
mqttd=${MQTTD:-$target/release/mqttd}
load=${MQTT_LOAD:-$target/release/mqtt-load}
connections=1000000 keep_alive=600 probes= pairs=50 rate=2000 slice=6 hold=60 raw=

source "$(dirname "$0")/options.sh"
take_options "$@"
((${#arguments[@]} == 0)) || refuse "there is no '${arguments[0]}': see many.sh --help"
((connections > 0 && pairs > 0 && rate > 0 && slice > 0)) ||
    refuse "--connections, --pairs, --rate and --slice are at least 1"
for program in "$mqttd" "$load"; do
    command -v "$program" >/dev/null || refuse "there is no $program: cargo build --release -p mqtt-bin -p mqtt-benches"
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
"${first[@]}" taskset -c 0 "$mqttd" --ephemeral --cores 1 --listen "127.0.0.1:$port" --connections-max $((connections + 10000)) --log warn &
broker=$!
until (: </dev/tcp/127.0.0.1/"$port") 2>/dev/null; do
    kill -0 "$broker" 2>/dev/null || refuse "mqttd did not start"
    sleep 0.1
done

# Connections on this machine; both ends of each are.
count() { awk '/^TCP:/ { print int($3 / 2) }' /proc/net/sockstat; }

# look: one slice of the pairs' latency, and the middle of it.
look() {
    local report=$work/paced-$((looks += 1)).json
    "${first[@]}" taskset -c 1 "$load" paced --pairs "$pairs" --rate "$rate" --warm-up 1 --duration "$slice" \
        --broker "127.0.0.1:$port" --pid "$broker" --json >"$report" || true
    jq -c --arg ended "$EPOCHREALTIME" --arg slice "$slice" \
        '{ at: (($ended | tonumber) - ($slice | tonumber) / 2), p50: .latency_p50_us, p99: .latency_p99_us }' \
        "$report" >>"$work/slices"
}

looks=0
before=$(count)
: >"$work/slices"
look
taskset -c 1 "$load" idle --connections "$connections" --keep-alive "$keep_alive" --hold "$hold" \
    --probes "$probes" --broker "127.0.0.1:$port" --pid "$broker" --json >"$work/idle.json" &
idle=$!
while kill -0 "$idle" 2>/dev/null; do look; done
wait "$idle" || true
idle=
[[ -s $work/idle.json ]] || refuse "the connections could not be held"
# What is left of them goes.
end=$((SECONDS + 120))
while (($(count) > before + connections / 1000 + 100 && SECONDS < end)); do look; done
gone=$EPOCHREALTIME
look

echo "$connections connections, keep alive $keep_alive s, beside $pairs pairs at $rate messages a second:"
echo
echo "| when | slices | p50 ms, median | p99 ms, median | p99 ms, worst |"
echo "|---|---|---|---|---|"
jq -rn --arg gone "$gone" --slurpfile slices "$work/slices" --slurpfile idle "$work/idle.json" '
    def median: sort | .[length / 2 | floor];
    def ms: . / 10 | round / 100;
    ($idle[0].phases + [{ phase: "after", begin_unix_s: ($gone | tonumber) }]) as $phases
    | [$slices[] | .at as $at | . + { phase: ([$phases[] | select(.begin_unix_s <= $at).phase] | last // "before") }]
    | . as $all
    | [["before", "before"], ["connecting", "they connect"], ["subscribing", "they subscribe"],
       ["holding", "all are there"], ["probing", "they get a message"], ["leaving", "all leave at once"],
       ["after", "after"]][]
    | . as [$phase, $title]
    | [$all[] | select(.phase == $phase)]
    | select(length > 0)
    | "| \($title) | \(length) | \(map(.p50) | median | ms) | \(map(.p99) | median | ms) | \(map(.p99) | max | ms) |"'
echo
echo "| | |"
echo "|---|---|"
jq -r 'to_entries[] | select(.value | type == "array" | not)
    | "| \(.key | gsub("_"; " ")) | \(.value) |"' "$work/idle.json"
jq -e '.violations == 0' "$work/idle.json" >/dev/null
