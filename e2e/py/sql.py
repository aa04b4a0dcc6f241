"""Asks a SQLite database: {"database", "sql", "values"} on standard input, the rows as JSON."""

import json
import sqlite3
import sys

job = json.load(sys.stdin)
with sqlite3.connect(job["database"]) as database:
    rows = database.execute(job["sql"], job.get("values", [])).fetchall()
print(json.dumps(rows))
