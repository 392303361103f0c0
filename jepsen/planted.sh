#!/usr/bin/env bash
# Builds the program `jepsen-planted`, which is `jepsen` with every planted bug, and shows which seeds of the simulation
# find each. Arguments go to `jepsen planted`: --bug NAME, --ranges A..B,C..D, --seconds N, --jobs N; --help lists them.
# It lies in the normal target directory under a name of its own: nothing else carries bugs afterwards.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/kvorum/target}"
cargo build --locked -q -p kvorum-jepsen --features bugs --bin jepsen-planted
exec "$CARGO_TARGET_DIR/debug/jepsen-planted" planted "$@"
