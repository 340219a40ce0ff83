#!/usr/bin/env bash
# How long mqttd takes to listen again with much in its data directory, what that occupies, and what other clients notice of
# the snapshots it writes.
#
# Usage: benches/recovery.sh [OPTION]... > recovery.md
#   --sessions N      sessions that are away, each with a subscription and a QoS 1 message that waits (1000000)
#   --retained N      retained messages (1000000)
#   --cores N         cores (2)
#   --starts N        how often it is started (3)
#   --windows N       seconds of latency beside snapshots, and as many without, at each QoS (10); 0 leaves them out
#   --rate N          messages a second whose latency is measured at QoS 0 (5000); a fifth of it is acknowledged at QoS 1
#   --dir DIRECTORY   where the data is (a new directory below the temporary ones)
#
# Everything is made by `mqttd store import`. Each start is timed until the port answers, and one of the sessions comes
# back and must get its message. Then pairs of clients exchange messages at a fixed rate beside 5,000 messages of 8,000
# bytes a second at QoS 1, so that the log grows and is replaced by snapshots; each second counts as one in which
# a snapshot was being written or as one without. Needs bash, jq and 2 GB on the disk. From the root of the repository:
#     cargo build --release -p mqtt-bin -p mqtt-benches && benches/recovery.sh
set -euo pipefail

target=${CARGO_TARGET_DIR:-target}
mqttd=${MQTTD:-$target/release/mqttd}
load=${MQTT_LOAD:-$target/release/mqtt-load}
sessions=1000000 retained=1000000 cores=2 starts=3 windows=10 rate=5000 dir=

source "$(dirname "$0")/options.sh"
take_options "$@"
[[ ${#arguments[@]} -eq 0 ]] || refuse "there is no '${arguments[0]}': see ${0##*/} --help"
((sessions > 0 && cores > 0 && starts > 0)) || refuse "--sessions, --cores and --starts are at least 1"
for program in "$mqttd" "$load"; do
    command -v "$program" >/dev/null || refuse "there is no $program: cargo build --release -p mqtt-bin -p mqtt-benches"
done

work=$(mktemp -d)
data=${dir:-$work/data}
[[ ! -e $data || -z $(ls -A "$data") ]] || refuse "$data is not empty"
broker= writer= reader=
stop() {
    for process in $reader $writer $broker; do
        kill "$process" 2>/dev/null || true
        wait "$process" 2>/dev/null || true
    done
    broker= writer= reader=
}
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
port=$((2000 + $$ % 6000))

echo "making $sessions sessions and $retained retained messages" >&2
awk -v sessions="$sessions" -v retained="$retained" '
    BEGIN {
        print "{\"mqttd_export\":{\"version\":1,\"time\":1}}"
        filler = "................................................"
        for (i = 0; i < retained; i++) {
            topic = sprintf("building/%d/floor/%d/sensor/%d", i % 997, i % 31, i)
            printf "{\"retained\":{\"topic\":\"%s\",\"qos\":1,\"retain\":true,\"payload\":\"%s%016d\"}}\n", topic, filler, i
        }
        for (i = 0; i < sessions; i++) {
            printf "{\"session\":{\"client_id\":\"device-%09d\",\"expiry_seconds\":4294967295,\"away_since\":1,\"next_packet_id\":1,", i
            printf "\"subscriptions\":[{\"filter\":\"device/%09d/command\",\"qos\":1}]}}\n", i
            printf "{\"delivery\":{\"client_id\":\"device-%09d\",\"qos\":1,\"message\":{\"topic\":\"device/%09d/command\",", i, i
            printf "\"qos\":1,\"payload\":\"%s%016d\"}}}\n", filler, i
        }
    }' >"$work/lines"
"$mqttd" store import "$work/lines" --data-dir "$data" --cores "$cores" >&2
rm "$work/lines"

now() { date +%s%N; }

# Starts the broker; sets $broker and says in $took how many milliseconds it was until the port answered.
start() {
    port=$((port + 1))
    local began
    began=$(now)
    "$mqttd" --data-dir "$data" --cores "$cores" --listen "127.0.0.1:$port" >"$work/log" 2>&1 &
    broker=$!
    until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        kill -0 "$broker" 2>/dev/null || { cat "$work/log" >&2 && exit 1; }
        sleep 0.005
    done
    took=$((($(now) - began) / 1000000))
}

# The value of a line of the broker's status, in MB.
status() { awk -v name="$1:" '$1 == name { printf "%.0f", $2 / 1000 }' "/proc/$broker/status"; }

# come_back NUMBER: the session comes back; fails unless it is there with its message.
come_back() {
    local id answer
    id=$(printf 'device-%09d' "$1")
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    # CONNECT of 3.1.1 without a clean session, and a PUBACK for the message, which is the first to be sent.
    printf '\x10\x1c\x00\x04MQTT\x04\x00\x00\x00\x00\x10%s' "$id" >&3
    # CONNACK with Session Present, then the PUBLISH with its 64 bytes of payload.
    answer=$(timeout 10 head -c 98 <&3 | tr -d '\0')
    printf '\x40\x02\x00\x01\xe0\x00' >&3
    exec 3>&-
    [[ $answer == *"$(printf 'device/%09d/command' "$1")"*"$(printf '%016d' "$1")" ]] || {
        echo "$id did not get its message" >&2
        exit 1
    }
}

echo "| start | listening after, ms | RSS, MB | CPU, s |"
echo "|---|---|---|---|"
for number in $(seq "$starts"); do
    start
    cpu=$(awk '{ print ($14 + $15) / 100 }' "/proc/$broker/stat")
    echo "| $number | $took | $(status VmRSS) (at most $(status VmHWM)) | $cpu |"
    come_back $((number * 7919 % sessions))
    ((number == starts)) || stop
done
echo
echo "$sessions sessions with a subscription and a queued message, $retained retained messages of 64 bytes, $cores cores:" \
    "$(du -sm --apparent-size "$data" | cut -f1) MB in the data directory."

((windows > 0)) || exit 0
# Whether a snapshot is being written.
is_writing() { compgen -G "$data/layout-*/core-*/snapshot-*.new" >/dev/null; }
# Waits so many seconds without starting a process, which others would have to wait for.
exec 9<> <(:)
pause() { read -r -t "$1" -u 9 || true; }
"$load" paced --persistent --qos 1 --pairs 20 --rate 5000 --payload 8000 --duration 100000 --broker "127.0.0.1:$port" --json \
    >/dev/null 2>&1 &
writer=$!
# measure QOS RATE FIELD...: each second is one with or without a snapshot; the medians of these fields of both.
measure() {
    local qos=$1 rate=$2 with=0 without=0 tries=0 kind field persistent=
    shift 2
    ((qos == 0)) || persistent=--persistent
    rm -f "$work"/seconds.*
    while ((with < windows || without < windows)) && ((tries < windows * 20)); do
        tries=$((tries + 1))
        kind=without
        "$load" paced $persistent --qos "$qos" --rate "$rate" --warm-up 0 --duration 1 --broker "127.0.0.1:$port" --json \
            >"$work/report" &
        reader=$!
        while kill -0 "$reader" 2>/dev/null; do
            if is_writing; then kind=with; fi
            pause 0.02
        done
        wait "$reader"
        if [[ $kind == with ]]; then with=$((with + 1)); else without=$((without + 1)); fi
        for field in "$@"; do
            jq -r ".[\"${field}\"]" "$work/report" >>"$work/seconds.$kind.$field"
        done
    done
    for kind in without with; do
        echo -n "| QoS $qos, $rate a second, $kind a snapshot being written | ${!kind} |"
        for field in "$@"; do
            echo -n " $(sort -n "$work/seconds.$kind.$field" 2>/dev/null | awk '{ v[NR] = $1 } END { print NR ? v[int((NR + 1) / 2)] : "-" }') |"
        done
        echo
    done
}
echo
echo "| delivery | seconds | p50, us | p99, us | p99.9, us |"
echo "|---|---|---|---|---|"
measure 0 "$rate" latency_p50_us latency_p99_us latency_p99.9_us
echo
echo "| acknowledgement | seconds | p50, us | p99, us | p99.9, us |"
echo "|---|---|---|---|---|"
measure 1 "$((rate / 5))" acknowledged_p50_us acknowledged_p99_us acknowledged_p99.9_us
