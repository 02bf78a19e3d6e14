"""The log of a run: a record for each step, in a table that any program opens."""

import csv
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tinygpt.io.atomic import atomic_write


@dataclass
class Record:
    "What happened in one step."

    step: int  # counted from 1
    steps: int  # how many there will be
    loss: float  # of this step's batch, in nats a token
    lr_scale: float  # the fraction of the full learning rates
    grad_norm: float  # before clipping
    tokens: int  # trained on so far
    seconds: float  # since the start
    tokens_per_second: float
    val_loss: float | None = None  # where it was evaluated
    skills: dict[str, float] | None = None  # the accuracy of each
    valid_fraction: float | None = None  # of the tales it writes: how many the grammar could have written


class Log:
    "Appends records to a CSV file; what an earlier run wrote after `step` is dropped."

    def __init__(self, path: Path, step: int):
        self.path, self.columns = path, [field.name for field in fields(Record)]
        kept = [row for row in read_rows(path) if int(row["step"]) <= step] if path.exists() else []
        with atomic_write(path) as draft, open(draft, "w", newline="") as file:
            table = csv.DictWriter(file, self.columns)
            table.writeheader()
            table.writerows(kept)

    def write(self, record: Record):
        with open(self.path, "a", newline="") as file:
            row = asdict(record) | {"skills": json.dumps(record.skills) if record.skills else None}
            csv.DictWriter(file, self.columns).writerow(row)


def read_rows(path: Path) -> list[dict[str, str]]:
    "The rows of a log, except for one that was cut off."
    with open(path, newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values() and None not in row]


def read_records(folder: str | Path) -> list[Record]:
    "The record of each step of a run."
    def parse(name: str, text: str):
        if text == "":
            return None
        if name == "skills":
            return json.loads(text)
        return int(text) if name in ("step", "steps", "tokens") else float(text)

    rows = read_rows(Path(folder).expanduser() / "log.csv")
    return [Record(**{name: parse(name, text) for name, text in row.items()}) for row in rows]
