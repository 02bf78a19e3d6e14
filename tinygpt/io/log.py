"""The log of a run: one record for each step, in a CSV file that any program opens."""

import csv
import json
from dataclasses import dataclass, fields
from pathlib import Path
from tinygpt.io.atomic import atomic_write

__all__ = ["Record", "read_records"]

@dataclass
class Record:
    "What happened in one step."
    step: int  # counted from 1
    steps: int  # how many there will be
    loss: float  # of this step's batch, in nats per token
    lr_scale: float  # the fraction of the full learning rates
    grad_norm: float  # before clipping
    tokens: int  # trained on so far
    seconds: float  # since the start
    tokens_per_second: float  # in this step alone, without evaluation
    val_loss: float | None = None  # where it was evaluated
    skills: dict[str, float] | None = None  # the accuracy of each
    valid_fraction: float | None = None  # of the tales it writes: how many the grammar could have written

def to_row(record: Record) -> list[str]:
    "The cells of a record: each is JSON, or empty for None."
    return ["" if value is None else json.dumps(value) for value in vars(record).values()]

def read_records(folder: str | Path) -> list[Record]:
    "The record of each step of a run, from its log; a last line that was cut off is left out."
    text = (Path(folder).expanduser() / "log.csv").read_text()
    rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    return [Record(**{name: json.loads(cell) if cell else None for name, cell in row.items()}) for row in rows]

def start_log(folder: Path, step: int) -> list[Record]:
    "Start the log of a run, or cut it after this step; returns the records that it keeps."
    path = folder / "log.csv"
    records = [record for record in read_records(folder) if record.step <= step] if path.exists() else []
    with atomic_write(path) as draft, open(draft, "w", newline="") as file:
        csv.writer(file).writerows([[field.name for field in fields(Record)], *map(to_row, records)])
    return records

def append_record(folder: Path, record: Record):
    "Add the record of a step to the log of a run."
    with open(folder / "log.csv", "a", newline="") as file:
        csv.writer(file).writerow(to_row(record))
