#!/bin/sh
# Compares mqttd with mosquitto in one run: 50 pairs at QoS 0 with 64-byte payloads, and idle connections.
# Broker on CPU 0, mqtt-load on CPU 1, a fresh broker for every measurement, in the order A B A B; medians as markdown.
#
# Needs mosquitto, taskset and jq. From the root of the repository:
#     cargo build --release -p mqtt-bin -p mqtt-benches && benches/compare.sh > compare.md
# Settings (environment): ROUNDS=3 SECONDS_EACH=5 CONNECTIONS=10000 MQTTD=... MQTT_LOAD=... MOSQUITTO=...
set -eu

target=${CARGO_TARGET_DIR:-target}
mqttd=${MQTTD:-$target/release/mqttd}
load=${MQTT_LOAD:-$target/release/mqtt-load}
mosquitto=${MOSQUITTO:-$(PATH=$PATH:/usr/sbin command -v mosquitto)}
rounds=${ROUNDS:-3}
seconds=${SECONDS_EACH:-5}
connections=${CONNECTIONS:-10000}

work=$(mktemp -d)
broker=
stop() {
    if [ -n "$broker" ]; then
        kill "$broker" 2>/dev/null || true
        wait "$broker" 2>/dev/null || true
        broker=
    fi
}
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# A port that nothing listens on, tried by the brokers themselves: each start takes the next.
port=$((20000 + $$ % 20000))

# start NAME: starts the broker and sets $broker, or ends the script with what the broker said.
start() {
    port=$((port + 1))
    ulimit -n "$(ulimit -H -n)"
    case $1 in
    mqttd)
        taskset -c 0 "$mqttd" --listen "127.0.0.1:$port" --cores 1 >"$work/log" 2>&1 &
        ;;
    mosquitto)
        printf 'listener %s 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n' "$port" >"$work/conf"
        taskset -c 0 "$mosquitto" -c "$work/conf" >"$work/log" 2>&1 &
        ;;
    esac
    broker=$!
    tries=0
    until run churn --cycles 1 --warm-up 0 --clients 1 >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ $tries -gt 50 ] || ! kill -0 "$broker" 2>/dev/null; then
            echo "$1 does not serve:" >&2
            cat "$work/log" >&2
            exit 1
        fi
        sleep 0.1
    done
}

run() {
    taskset -c 1 "$load" "$@" --broker "127.0.0.1:$port" --pid "$broker" --json
}

for round in $(seq "$rounds"); do
    for name in mqttd mosquitto; do
        echo "round $round of $rounds: $name" >&2
        start "$name"
        run pairs --pairs 50 --qos 0 --payload 64 --duration "$seconds" >>"$work/$name.pairs"
        stop
        start "$name"
        run idle --connections "$connections" >>"$work/$name.idle"
        stop
    done
done

# median NAME SCENARIO FIGURE
median() {
    jq -s "map(.[\"$3\"]) | sort | .[length / 2 | floor]" "$work/$1.$2"
}

# row TITLE SCENARIO FIGURE
row() {
    a=$(median mqttd "$2" "$3")
    b=$(median mosquitto "$2" "$3")
    ratio=$(jq -n "if $b == 0 then \"-\" else ($a / $b * 100 | round / 100) end" | tr -d '"')
    echo "| $1 | $a | $b | $ratio |"
}

echo "| median of $rounds, A B A B | mqttd | mosquitto | ratio |"
echo "|---|---|---|---|"
row "50 pairs, QoS 0, 64 B: broker CPU us a delivery" pairs broker_cpu_us_per_delivery
row "deliveries a second" pairs deliveries_per_s
row "latency p99, us" pairs latency_p99_us
row "mqtt-load's own CPU us a delivery" pairs own_cpu_us_per_delivery
row "$connections idle connections with a subscription: RSS bytes each" idle rss_bytes_per_connection
row "anonymous RSS bytes each" idle rss_anon_bytes_per_connection
row "broker CPU us a connect" idle broker_cpu_us_per_connect
row "broker CPU us a SUBSCRIBE" idle broker_cpu_us_per_subscribe
echo
echo "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) CPUs, Linux $(uname -r);" \
    "$("$mqttd" --version), $("$mosquitto" -h | head -n 1). Broker on CPU 0, mqtt-load on CPU 1."
