#!/usr/bin/env bash
# Builds each planted bug in turn and shows by which seed the simulation finds it. Fails if it does not.
# With names of bugs, only those.
set -euo pipefail
cd "$(dirname "$0")/.."
bugs=("$@")
if [ ${#bugs[@]} -eq 0 ]; then
  mapfile -t bugs < <(sed -n 's/^bug-\([a-z-]*\) = .*/\1/p' jepsen/Cargo.toml)
fi
for bug in "${bugs[@]}"; do
  printf '%s: ' "$bug"
  cargo test --locked -q -p kvorum-jepsen --features "bug-$bug" --test sim -- --nocapture a_planted_bug_is_found \
    | grep -o 'found by seed.*'
done
