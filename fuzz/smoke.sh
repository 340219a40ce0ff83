#!/usr/bin/env bash
# Runs every fuzz target for FUZZ_SECONDS, 20 if that is not set; fails on a finding. Needs the stable compiler and a C++ compiler.
source "$(dirname "$0")/fuzz.sh"
for target in "${targets[@]}"; do
    run "$target" "${FUZZ_SECONDS:-20}" "$work/found/$target"
done
