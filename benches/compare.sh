#!/usr/bin/env bash
# Compares mqttd with other brokers in one run, in every shape of load that mqtt-load has: CPU for each message by the
# broker's own process clock, memory, latency. Every measurement has a fresh broker on CPU 0 and mqtt-load on CPU 1; the
# brokers take turns in every round (A B C A B C). Prints medians and ratios as markdown.
#
# Usage: benches/compare.sh [OPTION]... [NAME=COMMAND]... > compare.md
#   --rounds N        measurements of each kind (3)
#   --seconds N       how long those take that have a duration (5)
#   --connections N   idle connections (10000)
#   --only A,B,...    some loads: pairs0 pairs1 pairs2 paced fanout fanin sparse idle churn retained offline stalled, and
#                     pairs0x2 pairs1x2 idlex2, in which the broker has two CPUs and mqtt-load shares them; only if named:
#                     durable1 durable2 acks, in which subscribers have sessions that outlive their connections
#   --with A,B,...    take those in that keep what they acknowledge on a disk: mqttd-store, mosquitto-store (which saves
#                     once a second)
#   --without A,B,... leave brokers out: floor mosquitto rumqttd
#   --svg FILE        draws the CPU figures
#   --raw DIRECTORY   keeps every report as JSON. What is there already is not measured again: the same command goes on
#                     where it was interrupted, --rounds 0 measures nothing, and a higher --rounds adds to it
# A COMMAND starts another broker in the foreground; {port} in it is where it must listen, and {dir} a new directory.
#
# mosquitto and rumqttd take part if they are installed. Needs bash, taskset and jq. From the root of the repository:
#     cargo build --release -p mqtt-bin -p mqtt-benches && benches/compare.sh > compare.md
set -euo pipefail

target=${CARGO_TARGET_DIR:-target}
mqttd=${MQTTD:-$target/release/mqttd}
load=${MQTT_LOAD:-$target/release/mqtt-load}
floor=${MQTT_FLOOR:-$target/release/mqtt-floor}
rounds=3 seconds=5 connections=10000 svg= raw= with= without=
loads="pairs0 pairs1 pairs2 paced fanout fanin sparse idle churn retained offline stalled pairs0x2 pairs1x2 idlex2"
only=${loads// /,}
loads+=" durable1 durable2 acks"
names=(mqttd floor mosquitto rumqttd)
stores="mqttd-store mosquitto-store"
declare -A command_of=()
export PATH=$PATH:/usr/sbin

source "$(dirname "$0")/options.sh"
take_options "$@"
for argument in "${arguments[@]}"; do
    [[ $argument =~ ^[a-z][^=]*=. ]] || refuse "'$argument' is no NAME=COMMAND"
    name=${argument%%=*} command_of[${argument%%=*}]=${argument#*=}
    case " ${names[*]} " in *" $name "*) ;; *) names+=("$name") ;; esac
done
IFS=, read -ra chosen <<<"$only"
IFS=, read -ra left_out <<<"$without"
IFS=, read -ra taken_in <<<"$with"
one_of load "$loads" "${chosen[@]}"
one_of broker "${names[*]}" "${left_out[@]}"
one_of "broker with a store" "$stores" "${taken_in[@]}"
names+=("${taken_in[@]}")
((seconds > 0 && connections > 0)) || refuse "--seconds and --connections are at least 1"
for program in "$mqttd" "$load" "$floor"; do
    command -v "$program" >/dev/null || refuse "there is no $program: cargo build --release -p mqtt-bin -p mqtt-benches"
done

# Who takes part.
brokers=()
for name in "${names[@]}"; do
    case ,$without, in *,"$name",*) continue ;; esac
    case $name in
    mqttd | mqttd-store | floor) brokers+=("$name") ;;
    *) if [[ -v command_of[$name] ]] || command -v "${name%-store}" >/dev/null; then brokers+=("$name"); fi ;;
    esac
done

work=$(mktemp -d)
reports=${raw:-$work/reports}
mkdir -p "$reports"
broker=
stop() {
    if [[ -n $broker ]]; then
        kill "$broker" 2>/dev/null || true
        wait "$broker" 2>/dev/null || true
        broker=
    fi
}
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
# Reports of other settings would be counted as if they were the same.
settings="--seconds $seconds --connections $connections"
if [[ -e $reports/settings && $(<"$reports/settings") != "$settings" ]]; then
    refuse "$reports was measured with $(<"$reports/settings")"
fi
echo "$settings" >"$reports/settings"
ulimit -n "$(ulimit -H -n)"

# A port that nothing listens on, tried by the brokers themselves: each start takes the next. The ports from 10,000 on are
# those that mqtt-load connects from.
port=$((2000 + $$ % 6000))

# Its default is to cut off clients with more than 20 messages of QoS 2 under way.
mosquitto_conf() {
    printf 'listener %s 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 1000\n' "$1"
}

rumqttd_toml() {
    cat <<TOML
id = 0
[router]
id = 0
max_connections = 20010
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v4.1]
name = "v4-1"
listen = "127.0.0.1:$1"
next_connection_delay_ms = 1
[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = 20480
max_inflight_count = 100
dynamic_filters = true
TOML
}

# Which CPUs the broker and mqtt-load have, and how many cores mqttd is told to use.
cores=1 broker_cpus=0 load_cpus=1

# start NAME: starts the broker, waits until it serves, and sets $broker; fails with what the broker said.
start() {
    port=$((port + 1))
    local dir=$work/run.$port run tries=0
    mkdir "$dir"
    case $1 in
    mqttd) run=("$mqttd" --ephemeral --listen "127.0.0.1:$port" --cores "$cores") ;;
    mqttd-store) run=("$mqttd" --data-dir "$dir/data" --listen "127.0.0.1:$port" --cores "$cores") ;;
    floor) run=("$floor" --listen "127.0.0.1:$port") ;;
    mosquitto | mosquitto-store)
        mosquitto_conf "$port" >"$dir/conf"
        if [[ $1 == *-store ]]; then
            printf 'user root\npersistence true\npersistence_location %s/\nautosave_interval 1\n' "$dir" >>"$dir/conf"
        fi
        run=(mosquitto -c "$dir/conf")
        ;;
    rumqttd)
        rumqttd_toml "$port" >"$dir/conf.toml"
        run=(rumqttd -c "$dir/conf.toml")
        ;;
    esac
    if [[ -v command_of[$1] ]]; then
        local text=${command_of[$1]//\{port\}/$port}
        run=(sh -c "exec ${text//\{dir\}/$dir}")
    fi
    taskset -c "$broker_cpus" "${run[@]}" >"$dir/log" 2>&1 &
    broker=$!
    until run_load churn --cycles 1 --warm-up 0 --clients 1 >/dev/null 2>&1; do
        tries=$((tries + 1))
        if ((tries > 50)) || ! kill -0 "$broker" 2>/dev/null; then
            printf '%s does not serve:\n%s\n' "$1" "$(tail -n 20 "$dir/log")" >&2
            return 1
        fi
        sleep 0.1
    done
}

run_load() {
    taskset -c "$load_cpus" "$load" "$@" --broker "127.0.0.1:$port" --pid "$broker" --json
}

# measure LOAD: the scenario behind a name.
measure() {
    case ${1%x2} in
    pairs?) run_load pairs --qos "${1:5:1}" --duration "$seconds" ;;
    durable?) run_load pairs --qos "${1:7:1}" --window 20 --persistent --duration "$seconds" ;;
    acks) run_load paced --qos 1 --rate 1000 --persistent --duration "$seconds" ;;
    paced) run_load paced --duration "$seconds" ;;
    fanout) run_load fan-out --duration "$seconds" ;;
    fanin) run_load fan-in --duration "$seconds" ;;
    sparse) run_load sparse --duration "$seconds" ;;
    idle) run_load idle --connections "$connections" ;;
    churn | retained | offline) run_load "$1" ;;
    stalled) run_load stalled --payload 256 --duration "$seconds" ;;
    esac
}

load_before=$(cut -d' ' -f1-3 /proc/loadavg)
for round in $(seq "$rounds"); do
    for what in "${chosen[@]}"; do
        for name in "${brokers[@]}"; do
            report=$reports/$name.$what.json
            if [[ -e $report ]] && (($(wc -l <"$report") >= round)); then continue; fi
            echo "round $round of $rounds: $what, $name" >&2
            cores=1 broker_cpus=0 load_cpus=1
            case $what in *x2) cores=2 broker_cpus=0,1 load_cpus=0,1 ;; esac
            # What a broker cannot do is shown as a gap, and what it does wrong is marked. Its port may be another's.
            if start "$name" || { stop && start "$name"; }; then
                measure "$what" >>"$report" || echo "$name: $what failed or broke a rule" >&2
            fi
            stop
        done
    done
done
# median NAME LOAD FIGURE: nothing if it was not measured.
median() {
    if [[ -s $reports/$1.$2.json ]]; then
        jq -rs "map(.[\"$3\"] | numbers) | sort | .[length / 2 | floor] // empty" "$reports/$1.$2.json"
    fi
}

# broke NAME LOAD: whether a delivery was wrong.
broke() {
    [[ -s $reports/$1.$2.json ]] && jq -es 'any(.[]; .violations > 0)' "$reports/$1.$2.json" >/dev/null
}

# lost NAME LOAD: whether a QoS 0 message was.
lost() {
    [[ -s $reports/$1.$2.json ]] && jq -es 'any(.[]; .qos == 0 and .lost > 0)' "$reports/$1.$2.json" >/dev/null
}

quotient() {
    if [[ -n $1 && -n $2 ]]; then awk -v a="$1" -v b="$2" 'BEGIN { if (b > 0) printf "%.2f", a / b }'; fi
}

rows=(
    "pairs0|broker_cpu_us_per_delivery|50 pairs, QoS 0, window 64, 64 B: CPU us a delivery"
    "pairs1|broker_cpu_us_per_delivery|50 pairs, QoS 1: CPU us a delivery"
    "pairs2|broker_cpu_us_per_delivery|50 pairs, QoS 2: CPU us a delivery"
    "paced|broker_cpu_us_per_delivery|50 pairs, QoS 0, 10,000 a second: CPU us a delivery"
    "paced|latency_p99_us|50 pairs, QoS 0, 10,000 a second: latency p99, us"
    "fanout|broker_cpu_us_per_delivery|1 to 100: CPU us a delivery"
    "fanin|broker_cpu_us_per_delivery|100 to 1: CPU us a delivery"
    "sparse|broker_cpu_us_per_filter|200,000 subscriptions: CPU us a filter"
    "sparse|rss_bytes_per_subscription|200,000 subscriptions: bytes each"
    "sparse|broker_cpu_us_per_publish|200,000 subscriptions: CPU us a publish"
    "idle|rss_bytes_per_connection|$connections idle connections with a subscription: bytes each"
    "idle|broker_cpu_us_per_connect|$connections idle connections: CPU us a connect"
    "idle|broker_cpu_us_per_subscribe|$connections idle connections: CPU us a SUBSCRIBE"
    "churn|broker_cpu_us_per_cycle|connect, subscribe, publish, receive, disconnect: CPU us a cycle"
    "churn|rss_growth_bytes|connect, ..., disconnect: bytes grown in 20,000 cycles"
    "retained|broker_cpu_us_per_set|50,000 retained messages: CPU us a set"
    "retained|broker_cpu_us_per_overwrite|50,000 retained messages: CPU us an overwrite"
    "retained|broker_cpu_us_per_read|50,000 retained messages: CPU us a read"
    "retained|rss_bytes_per_topic|50,000 retained messages: bytes each"
    "offline|broker_cpu_us_per_queued|QoS 1 for clients that are away: CPU us queued"
    "offline|broker_cpu_us_per_drained|QoS 1 for clients that are away: CPU us drained"
    "offline|rss_bytes_per_message|QoS 1 for clients that are away: bytes each"
    "offline|broker_written_bytes_per_queued|QoS 1 for clients that are away: bytes written to the disk each"
    "durable1|deliveries_per_s|50 pairs, QoS 1 to sessions that stay, 1,000 in flight: deliveries a second"
    "durable1|broker_cpu_us_per_delivery|50 pairs, QoS 1 to sessions that stay: CPU us a delivery"
    "durable1|broker_written_bytes_per_delivery|50 pairs, QoS 1 to sessions that stay: bytes written to the disk each"
    "durable2|deliveries_per_s|50 pairs, QoS 2 to sessions that stay, 1,000 in flight: deliveries a second"
    "durable2|broker_cpu_us_per_delivery|50 pairs, QoS 2 to sessions that stay: CPU us a delivery"
    "durable2|broker_written_bytes_per_delivery|50 pairs, QoS 2 to sessions that stay: bytes written to the disk each"
    "acks|acknowledged_p50_us|1,000 a second, QoS 1 to sessions that stay: PUBACK p50, us"
    "acks|acknowledged_p99_us|1,000 a second, QoS 1 to sessions that stay: PUBACK p99, us"
    "acks|latency_p99_us|1,000 a second, QoS 1 to sessions that stay: latency p99, us"
    "acks|broker_cpu_us_per_delivery|1,000 a second, QoS 1 to sessions that stay: CPU us a delivery"
    "stalled|latency_stalled_p99_us|beside a subscriber that does not read: latency p99, us"
    "stalled|rss_max_bytes|beside a subscriber that does not read: bytes of memory at most"
    "pairs0x2|broker_cpu_us_per_delivery|two CPUs, 50 pairs, QoS 0: CPU us a delivery"
    "pairs1x2|broker_cpu_us_per_delivery|two CPUs, 50 pairs, QoS 1: CPU us a delivery"
    "idlex2|broker_cpu_us_per_connect|two CPUs, $connections connects, half of them handed to the other core: CPU us each"
    "pairs0|own_cpu_us_per_delivery|mqtt-load itself, 50 pairs, QoS 0: CPU us a delivery"
)

# All cells once: LOAD, FIGURE and title, then a value a broker, separated by tabs.
for row in "${rows[@]}"; do
    IFS='|' read -r what figure title <<<"$row"
    case ,$only, in *,"$what",*) ;; *) continue ;; esac
    printf '%s\t%s\t%s' "$what" "$figure" "$title"
    for name in "${brokers[@]}"; do printf '\t%s' "$(median "$name" "$what" "$figure")"; done
    echo
done >"$work/cells"

count=$(cat <(echo 0) <(wc -l "$reports"/*.json 2>/dev/null | awk '$2 != "total" { print $1 }') | sort -n | tail -n 1)
printf '| median of %s |' "$count"
printf ' %s |' "${brokers[@]}"
has_store=
case " ${brokers[*]} " in *" mqttd-store "*) has_store=1 ;; esac
echo " mqttd / best peer | mqttd / floor |${has_store:+ mqttd-store / mqttd |}"
printf '|---|'
printf -- '---|%.0s' "${brokers[@]}"
echo "---|---|${has_store:+---|}"
# Not a tab: `read` would take two of them, with nothing between, for one.
tr '\t' '\001' <"$work/cells" | while IFS=$'\001' read -r what figure title values; do
    IFS=$'\001' read -ra values <<<"$values"
    printf '| %s |' "$title"
    ours='' bottom='' best='' stored=''
    for at in "${!brokers[@]}"; do
        name=${brokers[at]} value=${values[at]:-}
        mark=''
        if lost "$name" "$what"; then mark=' (lost some)'; fi
        if broke "$name" "$what"; then mark=' (wrong)'; fi
        printf ' %s%s |' "${value:--}" "$mark"
        case $name in
        mqttd) ours=$value ;;
        mqttd-store) stored=$value ;;
        floor) bottom=$value ;;
        *) if [[ -n $value ]] && { [[ -z $best ]] || jq -en "$value < $best" >/dev/null; }; then best=$value; fi ;;
        esac
    done
    # The floor is not made to save memory, and what mqtt-load costs itself says nothing of brokers.
    ratio='' above=''
    case $figure in
    broker_*) ratio=$(quotient "$ours" "$best") above=$(quotient "$ours" "$bottom") ;;
    rss_bytes_* | latency_*) ratio=$(quotient "$ours" "$best") ;;
    esac
    beside=
    if [[ -n $has_store ]]; then beside=$(quotient "$stored" "$ours") beside=" ${beside:--} |"; fi
    echo " ${ratio:--} | ${above:--} |$beside"
done

governor=$(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null || echo "not visible")
virtual=
if grep -qw hypervisor /proc/cpuinfo; then virtual=" in a virtual machine"; fi
cat <<TEXT

$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) CPUs$virtual, Linux $(uname -r), frequency governor:
$governor. Broker on CPU 0, mqtt-load on CPU 1, or both on both where two CPUs are named. Load average before: $load_before; after: $(cut -d' ' -f1-3 /proc/loadavg).
$(date -u +%F), $("$mqttd" --version)$(command -v mosquitto >/dev/null && mosquitto -h | sed -n '1s/^/, /p').
TEXT

if [[ -n $svg ]]; then
    printf -v header '%s\t' "${brokers[@]}"
    { echo "$header" && grep -P '\tbroker_cpu' "$work/cells"; } | awk -F '\t' -f "$(dirname "$0")/compare.awk" >"$svg"
fi
