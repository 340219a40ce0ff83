#!/usr/bin/env bash
# Runs every fuzz target for 20 seconds; fails on a finding. Needs the stable compiler and a C++ compiler.
source "$(dirname "$0")/fuzz.sh"
for target in "${targets[@]}"; do
    run "$target" 20 "$work/found/$target"
done
