#!/usr/bin/env bash
# Builds each planted bug in turn and shows by which seed the simulation finds it. Fails if it does not.
# With names of bugs, only those. A run that does not end, or dies, is found too.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds_max=200
seconds_max=60
bugs=("$@")
if [ ${#bugs[@]} -eq 0 ]; then
  mapfile -t bugs < <(sed -n 's/^bug-\([a-z-]*\) = .*/\1/p' jepsen/Cargo.toml)
fi
jepsen="${CARGO_TARGET_DIR:-target}/debug/jepsen"
for bug in "${bugs[@]}"; do
  cargo build --locked -q -p kvorum-jepsen --features "bug-$bug" --bin jepsen
  found=
  for seed in $(seq 1 "$seeds_max"); do
    if ! told=$(timeout "$seconds_max" "$jepsen" sim --seed "$seed" --once 2>/dev/null); then
      found="by seed $seed: $(sed -n 3p <<<"$told" | cut -c1-160)"
      break
    fi
  done
  echo "$bug: ${found:-not found in $seeds_max seeds}"
  [ -n "$found" ] || exit 1
done
