#!/usr/bin/env bash
# Builds each planted bug in turn and shows by which seed the simulation finds it. Fails if it does not.
set -euo pipefail
cd "$(dirname "$0")/.."
for bug in ack-before-durable vote-not-kept reads-unconfirmed request-ids-ignored open-restores-always \
  lease-too-long session-not-awaited; do
  printf '%s: ' "$bug"
  cargo test --locked -q -p kvorum-jepsen --features "bug-$bug" --test sim -- --nocapture a_planted_bug_is_found \
    | grep -o 'found by seed.*'
done
