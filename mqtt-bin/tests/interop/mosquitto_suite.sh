#!/usr/bin/env bash
# mosquitto_pub, mosquitto_sub and mosquitto_rr against a broker: MQTT 3.1, 3.1.1 and 5.0.
#
# Usage: MQTT_HOST=127.0.0.1 MQTT_PORT=1883 mosquitto_suite.sh
set -uo pipefail

HOST=${MQTT_HOST:-127.0.0.1} PORT=${MQTT_PORT:-1883}
# Long enough for a busy machine with two cores; a check ends as soon as its condition holds.
DEADLINE=20
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT
passed=0 failed=0
declare -A pids

pub() { timeout "$DEADLINE" mosquitto_pub -h "$HOST" -p "$PORT" "$@"; }
unique() { printf '%s-%s-%s' "$1" "$$" "${EPOCHREALTIME/[.,]/}"; }

# The condition, until it holds or the deadline has passed.
await() {
    local end=$((SECONDS + DEADLINE))
    until "$@"; do
        if ((SECONDS >= end)); then
            echo "not within $DEADLINE s: $*"
            return 1
        fi
        read -rt 0.02 <> <(:) || true
    done
}

# listener NAME WANTED ARGUMENT...: starts a mosquitto_sub that ends after WANTED messages. What it says goes to the
# file NAME; messages are lines `MSG topic qos retain payload`.
listener() {
    local name=$1 wanted=$2
    shift 2
    # Emptied here, not by the process that starts: what an earlier one said must not be taken for its words.
    : > "$work/$name"
    stdbuf -oL mosquitto_sub -d -h "$HOST" -p "$PORT" -C "$wanted" -W "$DEADLINE" -F 'MSG %t %q %r %p' "$@" \
        >> "$work/$name" 2>&1 &
    pids[$name]=$!
}

# subscriber NAME WANTED ARGUMENT...: a listener whose SUBACK is here.
subscriber() {
    listener "$@"
    await grep -aq '^Subscribed' "$work/$1"
}

# finish NAME FIELDS: waits for the end of a listener; `got` is what it received, cut to these fields.
finish() {
    wait "${pids[$1]}"
    got=$(grep '^MSG ' "$work/$1" | cut -d' ' -f"${2:-2-}")
}

same() {
    if [[ $1 != "$2" ]]; then
        printf 'expected: %s\nreceived: %s\n' "$2" "$1"
        return 1
    fi
}

qos_matrix() {
    local published granted topic
    for published in 0 1 2; do
        for granted in 0 1 2; do
            topic=$(unique "qos$published$granted")
            subscriber s 1 -V "$1" -q "$granted" -t "$topic" || return
            pub -V "$1" -q "$published" -t "$topic" -m x || return
            finish s; same "$got" "$topic $((published < granted ? published : granted)) 0 x" || return
        done
    done
}

retained() {
    local topic
    topic=$(unique "retain$1")
    pub -V "$1" -q 1 -r -t "$topic" -m first && pub -V "$1" -q 1 -r -t "$topic" -m second || return
    subscriber s 1 -V "$1" -q 1 -t "$topic" || return
    finish s; same "$got" "$topic 1 1 second" || return
    pub -V "$1" -q 1 -r -t "$topic" -n || return
    subscriber s 1 -V "$1" -q 1 -t "$topic" || return
    pub -V "$1" -q 1 -t "$topic" -m live || return
    finish s; same "$got" "$topic 1 0 live"
}

will() {
    local topic
    topic=$(unique "will$1")
    subscriber witness 1 -V "$1" -q 1 -t "$topic" || return
    subscriber mortal 1 -V "$1" -t "$topic/unused" --will-topic "$topic" --will-payload gone --will-qos 1 || return
    kill -KILL "${pids[mortal]}"
    finish witness; same "$got" "$topic 1 0 gone"
}

no_will() {
    local topic
    topic=$(unique "nowill$1")
    subscriber witness 1 -V "$1" -q 1 -t "$topic" || return
    subscriber polite 1 -V "$1" -t "$topic/end" --will-topic "$topic" --will-payload gone --will-qos 1 || return
    pub -V "$1" -q 1 -t "$topic/end" -m x || return
    finish polite
    pub -V "$1" -q 1 -t "$topic" -m marker || return
    finish witness; same "$got" "$topic 1 0 marker"
}

offline_queue() {
    local topic id
    topic=$(unique "offline$1") id=$(unique sleeper)
    # -E ends after the SUBACK: the session stays.
    local session=(-V "$1" -c -i "$id" -q 1 -t "$topic")
    if [[ $1 == mqttv5 ]]; then session+=(-x 300); fi
    timeout "$DEADLINE" mosquitto_sub -h "$HOST" -p "$PORT" "${session[@]}" -E || return
    for number in 1 2 3; do pub -V "$1" -q 1 -t "$topic" -m "$number" || return; done
    # The queued messages may come before the SUBACK, and end it.
    listener back 3 "${session[@]}"
    finish back; same "$got" "$topic 1 0 1"$'\n'"$topic 1 0 2"$'\n'"$topic 1 0 3"
}

shared() {
    local topic number
    topic=$(unique "shared$1")
    subscriber left 5 -V "$1" -q 1 -t "\$share/group/$topic" || return
    subscriber right 5 -V "$1" -q 1 -t "\$share/group/$topic" || return
    for number in {10..19}; do pub -V "$1" -q 1 -t "$topic" -m "$number" || return; done
    local all
    finish left 5; all=$got
    finish right 5; all+=$'\n'$got
    same "$(sort <<< "$all" | xargs)" "$(echo {10..19})"
}

large() {
    local topic
    topic=$(unique "large$1")
    head -c $((4 * 1024 * 1024)) /dev/urandom > "$work/payload"
    subscriber large 1 -V "$1" -q 2 -t "$topic" || return
    pub -V "$1" -q 2 -t "$topic" -f "$work/payload" || return
    finish large > /dev/null 2>&1
    # The payload stands among other output; it is unaltered if its bytes are there.
    python3 - "$work/payload" "$work/large" << 'PYTHON' || { echo "the payload was altered"; return 1; }
import sys
payload, output = (open(name, "rb").read() for name in sys.argv[1:])
sys.exit(payload not in output)
PYTHON
}

request_response() {
    local service replies
    service=$(unique service) replies=$(unique replies)
    subscriber responder 1 -V "$1" -q 1 -t "$service" || return
    timeout "$DEADLINE" mosquitto_rr -V "$1" -h "$HOST" -p "$PORT" -q 1 -t "$service" -e "$replies" -m ask \
        > "$work/answer" &
    local requester=$!
    finish responder; same "$got" "$service 1 0 ask" || return
    pub -V "$1" -q 1 -t "$replies" -m answer || return
    wait "$requester" || return
    same "$(cat "$work/answer")" answer
}

properties_v5() {
    local topic
    topic=$(unique properties)
    subscriber s 1 -V mqttv5 -q 1 -t "$topic" -D subscribe subscription-identifier 9 -F 'MSG %C|%R|%D|%P|%E|%S|%p' ||
        return
    pub -V mqttv5 -q 1 -t "$topic" -m x -D publish content-type text/plain -D publish response-topic r/t \
        -D publish correlation-data id -D publish user-property k2 v2 -D publish user-property k1 v1 \
        -D publish message-expiry-interval 90 || return
    finish s
    same "${got/|89|/|90|}" 'text/plain|r/t|id|k2:v2 k1:v1|90|9|x'
}

wildcards() {
    local topic
    topic=$(unique "wild$1")
    subscriber s 3 -V "$1" -q 0 -t "$topic/+/c" -t "$topic/#" -T "$topic/hidden" || return
    for level in a a/b d/c; do pub -V "$1" -q 1 -t "$topic/$level" -m x || return; done
    finish s 2; same "$(xargs <<< "$got")" "$topic/a $topic/a/b $topic/d/c"
}

check() {
    local output
    output=$("$@" 2>&1)
    if (($? == 0)); then
        ((passed += 1))
    else
        ((failed += 1))
        printf 'FAILED %s\n%s\n' "$*" "$output"
    fi
}

for version in mqttv31 mqttv311 mqttv5; do
    for behaviour in qos_matrix retained will no_will offline_queue wildcards large request_response; do
        check "$behaviour" "$version"
    done
done
for version in mqttv311 mqttv5; do check shared "$version"; done
check properties_v5
echo "$passed passed, $failed failed"
((failed == 0 && passed > 0))
