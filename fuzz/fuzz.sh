# Sourced by smoke.sh and long.sh: builds the targets, and runs one for some seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
targets=(decode roundtrip connection filter shard)
export CARGO_TARGET_DIR="$PWD/target"
# RUSTFLAGS would replace the flags of .cargo/config.toml, and nothing would be instrumented.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
cargo build --release --locked --quiet
binaries="$CARGO_TARGET_DIR/$(rustc --print host-tuple)/release"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

# The golden packets of mqtt-proto as bytes, the seeds of those targets that read packets.
mkdir "$work/golden"
while read -r file; do
    digits="$(sed '1,/^$/d; s/#.*//' "$file" | tr -d ' \n')"
    name="${file#../mqtt-proto/tests/golden/}"
    # shellcheck disable=SC2059
    printf "$(sed 's/../\\x&/g' <<<"$digits")" >"$work/golden/${name//\//_}"
done < <(find ../mqtt-proto/tests/golden -name '*.hex')

# run TARGET SECONDS FOUND: new inputs go to FOUND, a finding to artifacts/ and ends the script.
run() {
    local target="$1" seconds="$2" found="$3" seeds=("corpus/$1")
    case "$target" in decode | roundtrip) seeds+=("$work/golden") ;; esac
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
