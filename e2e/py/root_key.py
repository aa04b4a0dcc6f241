"""Reads the root key of a credential from a gateway's database, as nobody but a test may.

Reads JSON from standard input: {db, key}, the key in hex. Prints the root key in hex.
"""

import json
import sqlite3
import sys

job = json.load(sys.stdin)
with sqlite3.connect(f"file:{job['db']}?mode=ro", uri=True) as db:
    found = db.execute("SELECT root_key FROM credentials WHERE key = ?", [bytes.fromhex(job["key"])])
    json.dump(found.fetchone()[0].hex(), sys.stdout)
