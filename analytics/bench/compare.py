"""Asks kernel-bench, DuckDB and Polars the same questions in turn, checks that they agree, and prints ratios.

    pip install duckdb polars numpy
    cargo build --release -p kvorum-analytics --bin kernel-bench
    python3 analytics/bench/compare.py target/release/kernel-bench ROWS THREADS

Every round asks each engine once; medians of the rounds are compared, so that a busy machine disturbs all alike.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

binary, rows, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 5
os.environ["POLARS_MAX_THREADS"] = str(threads)
import duckdb
import numpy
import polars

random = numpy.random.default_rng(7)
columns = {
    "k": random.integers(0, 2**31, rows, dtype=numpy.int32),
    "v": random.random(rows),
    "key": random.integers(-(2**63), 2**63 - 1, rows, dtype=numpy.int64),
    "raw": random.integers(-(2**40), 2**40, rows, dtype=numpy.int64),
    "a4": random.integers(0, 16, rows, dtype=numpy.int8),
    "b4": random.integers(0, 16, rows, dtype=numpy.int8),
    "a8": random.integers(0, 256, rows, dtype=numpy.int16),
    "b8": random.integers(0, 256, rows, dtype=numpy.int16),
    "a16": random.integers(0, 65536, rows, dtype=numpy.int32),
    "b16": random.integers(0, 65536, rows, dtype=numpy.int32),
    "g16": random.integers(0, 16, rows, dtype=numpy.int32),
    "g10000": random.integers(0, 10000, rows, dtype=numpy.int32),
    "sparse": random.integers(-(2**63), 2**63 - 1, 10000, dtype=numpy.int64)[random.integers(0, 10000, rows)],
}
directory = tempfile.mkdtemp(prefix="kernel-bench-")
for name, column in columns.items():
    wide = column if column.dtype == numpy.float64 else column.astype(numpy.int64)
    wide.tofile(f"{directory}/{name}.bin")

ours = subprocess.Popen(
    [binary, "serve", directory, "--threads", str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
)
assert ours.stdout.readline() == "ready\n"
for name in columns:
    os.remove(f"{directory}/{name}.bin")
frame = polars.DataFrame(columns)
database = duckdb.connect(config={"threads": threads})
database.execute("create table t as select * from frame")
del columns

CASES = {
    "sum": ("v", None, None, 8),
    "filter_10": ("v", "k < 214748364", None, 12),
    "filter_50": ("v", "k < 1073741824", None, 12),
    "raw_filter_50": ("raw", "key < 0", None, 16),
    "packed_4": ("b4", "a4 < 8", None, 1),
    "packed_8": ("b8", "a8 < 128", None, 2),
    "packed_16": ("b16", "a16 < 32768", None, 4),
    "group_16": ("v", None, "g16", 8.5),
    "group_10000": ("v", None, "g10000", 10),
    "group_sparse": ("v", None, "sparse", 16),
}


def ask_ours(case):
    ours.stdin.write(case + "\n")
    ours.stdin.flush()
    reply = json.loads(ours.stdout.readline())
    return reply["seconds"], reply["answer"]


def ask_duckdb(case):
    value, where, group, _ = CASES[case]
    where = f"where {where}" if where else ""
    text = f"select sum({value}) from t {where}"
    if group:
        text = f"select sum(s), count(*) from (select sum({value}) s from t {where} group by {group})"
    start = time.perf_counter()
    row = database.execute(text).fetchone()
    return time.perf_counter() - start, [float(row[0]), row[1] if group else 1]


def ask_polars(case, engine):
    value, where, group, _ = CASES[case]
    lazy = frame.lazy()
    if where:
        name, limit = where.split(" < ")
        lazy = lazy.filter(polars.col(name) < int(limit))
    # Small integers would wrap in Polars' own sum.
    column = polars.col(value) if value == "v" else polars.col(value).cast(polars.Int64)
    lazy = lazy.group_by(group).agg(column.sum()) if group else lazy.select(column.sum())
    start = time.perf_counter()
    result = lazy.collect(engine=engine)
    took = time.perf_counter() - start
    return took, [float(result[value].sum()), result.height]


engines = {
    "kvorum": ask_ours,
    "duckdb": ask_duckdb,
    "polars": lambda case: ask_polars(case, "in-memory"),
    "polars streaming": lambda case: ask_polars(case, "streaming"),
}
bandwidth, loop = [], []
times = {case: {engine: [] for engine in engines} for case in CASES}
for turn in range(rounds + 1):
    seconds = ask_ours("bandwidth")[0]
    loop_seconds = ask_ours("loop_filter_50")[0]
    if turn:
        bandwidth.append(8 * rows / seconds / 1e9)
        loop.append(12 * rows / loop_seconds / 1e9)
    for case in CASES:
        answers = {}
        for engine, ask in engines.items():
            seconds, answers[engine] = ask(case)
            if turn:
                times[case][engine].append(seconds)
        total, groups = answers["kvorum"]
        for engine, (other, count) in answers.items():
            assert abs(total - other) <= 1e-9 * abs(other) and groups == count, (case, answers)

median = statistics.median
read = median(bandwidth)
print(f"rows {rows}, threads {threads}, {rounds} rounds; load {os.getloadavg()}")
print(f"read bandwidth {read:.1f} GB/s [{min(bandwidth):.1f}-{max(bandwidth):.1f}], scalar loop {median(loop):.1f} GB/s")
print("| case | Mrows/s | GB/s | of bandwidth | vs DuckDB | vs Polars | vs the faster |")
print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
for case, (_, _, _, width) in CASES.items():
    took = {engine: median(seconds) for engine, seconds in times[case].items()}
    rate = rows / took["kvorum"]
    polars_best = min(took["polars"], took["polars streaming"])
    ratio = [other / took["kvorum"] for other in (took["duckdb"], polars_best, min(took["duckdb"], polars_best))]
    spread = f"[{rows / max(times[case]['kvorum']) / 1e6:.0f}-{rows / min(times[case]['kvorum']) / 1e6:.0f}]"
    gigabytes = rate * width / 1e9
    print(
        f"| {case} | {rate / 1e6:.0f} {spread} | {gigabytes:.1f} | {gigabytes / read:.0%} |"
        f" {ratio[0]:.1f}× | {ratio[1]:.1f}× | {ratio[2]:.1f}× |"
    )
