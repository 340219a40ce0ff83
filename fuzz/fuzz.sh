# Sourced by smoke.sh and long.sh: builds the targets, and runs one for some seconds. FUZZ_TARGET_DIR says where to build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
targets=(decode roundtrip connection filter shard)
export CARGO_TARGET_DIR="${FUZZ_TARGET_DIR:-$PWD/target}"
# RUSTFLAGS would replace the flags of .cargo/config.toml, and nothing would be instrumented.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
cargo build --release --locked --quiet
binaries="$CARGO_TARGET_DIR/$(rustc --print host-tuple)/release"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# The golden packets of mqtt-proto as bytes, the seeds of the targets: as they are, as what a connection relays, and as
# what a Client of a broker sends. Digits before the packet are operations of the target.
mkdir "$work/golden" "$work/relayed" "$work/sent"
seed() { printf '%b' "$(sed 's/../\\x&/g' <<<"$2")" >"$work/$1"; }
while read -r file; do
    packet="${file#../mqtt-proto/tests/golden/}"
    digits="$(sed '1,/^$/d; s/#.*//' "$file" | tr -d ' \n')"
    case "$packet" in
        v5/*) relay=02 broker=00 ;;
        v3_1_1/*) relay=01 broker=01 ;;
        *) relay=00 broker=02 ;;
    esac
    case "$packet" in
        */connect_*) opening="04$broker" ;;
        *) opening="06${broker}0000000005" ;;
    esac
    name="${packet//\//_}"
    seed "golden/$name" "$digits"
    seed "relayed/$name" "00${relay}02ff00$digits"
    length=$((${#digits} / 2))
    if ((length < 256)); then seed "sent/$name" "$opening$(printf %02x "$length")$digits"; fi
done < <(find ../mqtt-proto/tests/golden -name '*.hex')

# run TARGET SECONDS FOUND: new inputs go to FOUND, a finding to artifacts/ and ends the script.
run() {
    local target="$1" seconds="$2" found="$3" seeds=("corpus/$1")
    case "$target" in
        decode | roundtrip) seeds+=("$work/golden") ;;
        connection) seeds+=("$work/relayed") ;;
        shard) seeds+=("$work/sent") ;;
    esac
    mkdir -p "$found" artifacts
    echo "fuzz: $target for $seconds seconds"
    if ! "$binaries/$target" "$found" "${seeds[@]}" -max_total_time="$seconds" -max_len=1024 -timeout=10 \
        -rss_limit_mb=1024 -artifact_prefix="artifacts/$target-" >"$work/$target.log" 2>&1; then
        tail -n 60 "$work/$target.log"
        echo "fuzz: $target has a finding; replay it: $binaries/$target artifacts/$target-..." >&2
        exit 1
    fi
    tail -n 1 "$work/$target.log"
}
