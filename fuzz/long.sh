#!/usr/bin/env bash
# long.sh MINUTES [TARGET]: runs each fuzz target, or this one, and adds the inputs that reach more to corpus/TARGET,
# which ends minimised. Fails on a finding.
minutes="${1:?usage: long.sh MINUTES [TARGET]}"
source "$(dirname "$0")/fuzz.sh"
if [ $# -gt 1 ]; then targets=("$2"); fi
for target in "${targets[@]}"; do
    run "$target" $((minutes * 60)) "$work/found/$target"
    mkdir "$work/minimised"
    "$binaries/$target" -set_cover_merge=1 -use_counters=0 "$work/minimised" "corpus/$target" "$work/found/$target" >"$work/merge.log" 2>&1
    # Inputs with names were made by hand and stay.
    find "corpus/$target" -type f -regex '.*/[0-9a-f]*' -delete
    mv "$work/minimised"/* "corpus/$target"
    rmdir "$work/minimised"
    echo "fuzz: corpus/$target has $(find "corpus/$target" -type f | wc -l) inputs"
done
