"""Print what describes run files: docs/runfile.md, and the JSON schema that ships with the package.

usage: python scripts/runfile.py
"""

import json
from pathlib import Path

from loraweave.files import write_text
from loraweave.runs.reference import run_file_page
from loraweave.runs.schema import FILE, run_file_schema

PAGE = Path(__file__).resolve().parents[1] / "docs" / "runfile.md"

if __name__ == "__main__":
    write_text(PAGE, run_file_page())
    write_text(FILE, json.dumps(run_file_schema(), indent=1, ensure_ascii=False) + "\n")
    print(f"{PAGE}\n{FILE}")
