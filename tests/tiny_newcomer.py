"""Files of the kinds that teams have lying about, with the mistakes that they have, in few rows."""

import json
from pathlib import Path
from typing import Any


def write_newcomer(folder: Path) -> Path:
    """alpaca.csv, chats.jsonl (line 4 has an empty answer, line 9 a comma too many), sharegpt.jsonl, tickets.jsonl."""
    folder.mkdir(parents=True)
    table = [f"Spell the word,{word},{' '.join(word)}" for word in ("order", "refund", "parcel", "late", "box") * 6]
    (folder / "alpaca.csv").write_text("\n".join(["instruction,input,output", *table]) + "\n")
    chats = [_chat(f"Where is parcel {n}?", f"Parcel {n} is in hall {n % 3}.") for n in range(40)]
    chats[3]["messages"][1]["content"] = ""
    lines = [json.dumps(chat) for chat in chats]
    lines[8] += ","
    (folder / "chats.jsonl").write_text("\n".join(lines) + "\n")
    pairs = [("hot", "cold"), ("big", "small"), ("old", "new"), ("up", "down")]
    shared = [
        {"conversations": [{"from": "human", "value": f"Opposite of {a}?"}, {"from": "gpt", "value": b}]}
        for a, b in pairs * 8
    ]
    (folder / "sharegpt.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shared))
    said = ["works fine", "it is broken", "could it be faster"]
    tickets = [{"text": f"{said[n % 3]} (note {n})", "label": n % 3} for n in range(60)]
    (folder / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tickets))
    return folder


def _chat(asked: str, answered: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]}
