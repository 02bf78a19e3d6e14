"""The log of a run: a CSV file with one record for each step."""

import csv
import json
import os
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from io import StringIO
from pathlib import Path
from typing import get_args
from tinygpt.io.atomic import atomic_write, named_errors
from tinygpt.io.reading import read_bytes, readable_errors

__all__ = ["Record", "read_records"]

LARGEST_LOG = 1_000_000_000  # bytes; a step takes some 150

@dataclass
class Record:
    "What happened in one step."
    step: int  # counted from 1
    steps: int  # how many are planned
    loss: float  # of this step's batch, in nats per token
    lr_scale: float  # the fraction of the full learning rates
    grad_norm: float  # before clipping
    tokens: int  # trained on so far
    seconds: float  # since the start
    tokens_per_second: float  # in this step alone, without evaluation
    val_loss: float | None = None  # where it was evaluated
    skills: dict[str, float] | None = None  # the accuracy of each
    valid_fraction: float | None = None  # of the tales it writes: the fraction that follows the grammar

NAMES = [field.name for field in fields(Record)]

def to_line(cells: list[str]) -> bytes:
    "A line of the file."
    line = StringIO(newline="")
    csv.writer(line).writerow(cells)
    return line.getvalue().encode()

def to_row(record: Record) -> list[str]:
    "The cells of a record: each is JSON, or empty for None."
    return ["" if value is None else json.dumps(value) for value in vars(record).values()]

def fits(value, kind: type) -> bool:
    "Whether a value has a field's type, such as float | None."
    kinds = get_args(kind) or (kind,)
    if isinstance(value, dict):
        return dict[str, float] in kinds and all(fits(part, float) for part in value.values())
    return type(value) in kinds or (type(value) is int and float in kinds)

def to_record(number: int, row: dict[str, str]) -> Record:
    "The record in a row; raises ValueError with the line number if a cell has the wrong type."
    values = {}
    if "too many cells" in row:
        raise ValueError(f"line {number} has more than {len(NAMES)} cells")
    for field in fields(Record):
        cell = row[field.name]
        try:
            values[field.name] = json.loads(cell) if cell else None
        except (ValueError, RecursionError):
            values[field.name] = cell
        if not fits(values[field.name], field.type):
            raise ValueError(f"{field.name} is {cell!r:.40} in line {number}")
    return Record(**values)

def content_of(records: Iterable[Record]) -> bytes:
    "The content of a log file with these records."
    return b"".join(map(to_line, [NAMES, *map(to_row, records)]))

def read_records(folder: str | Path) -> list[Record]:
    "The records of a run, one for each step, from its log; an incomplete last line is ignored."
    path = Path(folder).expanduser() / "log.csv"
    with readable_errors(path):
        text = read_bytes(path, LARGEST_LOG).decode()
        rows = csv.DictReader(text[: text.rfind("\n") + 1].splitlines(), restkey="too many cells", strict=True)
        try:
            if rows.fieldnames not in (None, NAMES):
                raise ValueError(f"its first line should be {','.join(NAMES)}")
            return [to_record(number, row) for number, row in enumerate(rows, 2)]
        except csv.Error as error:
            raise ValueError(error) from None

class Log:
    "Writes the log of a run, and keeps the CRC-32 of its content."

    def __init__(self, folder: Path, records: Iterable[Record] = ()):
        self.path, self.records = folder / "log.csv", list(records)
        content = content_of(self.records)
        with atomic_write(self.path) as draft:
            draft.write_bytes(content)
        self.crc32 = zlib.crc32(content)

    def append(self, record: Record):
        "Add the record of a step."
        line = to_line(to_row(record))
        with named_errors(self.path), open(self.path, "ab") as file:
            file.write(line)
        self.crc32 = zlib.crc32(line, self.crc32)

    def flush(self):
        "Wait until the log is on disk."
        with named_errors(self.path), open(self.path, "ab") as file:
            os.fsync(file.fileno())

def check_log(folder: Path, step: int, crc32: int) -> list[Record]:
    "The records up to this step; warns if some are missing, and raises ValueError if they have been changed."
    path = folder / "log.csv"
    records = [record for record in read_records(folder) if record.step <= step] if path.exists() else []
    if missing := sorted({*range(1, step + 1)}.difference(record.step for record in records)):
        lost = f"{len(missing)} of its first {step:,} steps, from step {missing[0]} on"
        warnings.warn(f"{path} lacks {lost}", stacklevel=2)
    elif zlib.crc32(content_of(records)) != crc32:
        raise ValueError(f"{path} is damaged: its first {step:,} steps are not those that were written; get it again, "
                         "or move it away")
    return records
