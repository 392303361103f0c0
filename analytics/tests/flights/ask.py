"""Asks DuckDB the questions of questions.json about a file and prints the answers as JSON: ask.py FILE."""

import json
import pathlib
import sys

import duckdb

connection = duckdb.connect()
connection.execute("set timezone = 'UTC'")
connection.execute(f"create table flights as select * from read_csv('{sys.argv[1]}', nullstr='NA', sample_size=-1)")
questions = json.loads((pathlib.Path(__file__).parent / "questions.json").read_text())
answers = [connection.execute(question["sql"]).fetchall() for question in questions]
print(json.dumps(answers, default=int, separators=(",", ":")))
