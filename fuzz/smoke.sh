#!/usr/bin/env bash
# Fuzzes every target for a short time, from the golden packets on. FUZZ_SECONDS sets how long, 20 unless told.
#
# Usage: fuzz/smoke.sh [TARGET...]
#
# Plain cargo on the stable toolchain: the coverage instrumentation is LLVM's own pass. There is no address sanitizer,
# as the code under test forbids unsafe code.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${FUZZ_SECONDS:-20}
targets=("$@")
if ((${#targets[@]} == 0)); then targets=(decode roundtrip connection filter); fi

export CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-$PWD/target}
# Each -C llvm-args is one option of the pass; comparisons are traced so that magic numbers are found.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing"
# With a target named, build scripts and macros are not instrumented.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --locked --release --target "$host"

# The golden packets: comments and the lines of words are cut, the rest is hexadecimal.
seeds=$CARGO_TARGET_DIR/seeds
mkdir -p "$seeds"
find ../mqtt-proto/tests/golden -name '*.hex' | while read -r golden; do
    name=$(sed 's|.*/golden/||; s|/|_|g; s|\.hex$||' <<< "$golden")
    printf '%b' "$(sed 's/#.*//; /:/d' "$golden" | tr -cd '0-9A-Fa-f' | sed 's/../\\x&/g')" > "$seeds/$name"
done

for target in "${targets[@]}"; do
    corpus=$CARGO_TARGET_DIR/corpus/$target
    mkdir -p "$corpus" "artifacts/$target"
    echo "== $target, $seconds s"
    log=$CARGO_TARGET_DIR/$target.log
    if ! "$CARGO_TARGET_DIR/$host/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="artifacts/$target/" "$corpus" "$seeds" 2> "$log"; then
        tail -n 40 "$log"
        echo "the input that fails is in fuzz/artifacts/$target"
        exit 1
    fi
    tail -n 1 "$log"
done
