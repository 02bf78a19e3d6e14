"""How files are read: only regular files, up to a size; JSON with unique keys and a limit on what it can grow to."""

import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

LARGEST_JSON = 100_000_000  # bytes; a tokenizer of a quarter of a million tokens takes some ten million
MOST_VALUES = 5_000_000  # in a JSON text: each takes up to a hundred bytes of memory

def open_regular(path: str | Path) -> BinaryIO:
    "Open a file for reading bytes; raise ValueError at once for a pipe or a device, which may never end."
    file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError(f"{path} is not a regular file")
    return file

def read_bytes(path: str | Path, most: int = LARGEST_JSON) -> bytes:
    "The content of a regular file; raise ValueError if it has more than `most` bytes."
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} has more than {most:,} bytes")
    return content

def parse_json(raw: bytes):
    "The value of a JSON text; raise ValueError if it is too large or too deep, or an object has a key twice."
    def unique(pairs: list[tuple]) -> dict:
        if repeated := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
            raise ValueError(f"it has the key {repeated[0]!r:.60} more than once")
        return dict(pairs)
    if sum(map(raw.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES:,} values")
    try:
        return json.loads(raw, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None

@contextmanager
def readable_errors(path: str | Path) -> Iterator[None]:
    "Turn the errors of reading a file's content into one ValueError that names the file and the reason."
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        reason = error if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise ValueError(f"{path} is damaged, or of another kind than expected: {reason}") from error

def read_json(path: str | Path, convert: Callable[[dict], Any] = dict) -> Any:
    "What `convert` makes of the settings in a JSON file; raise ValueError if the file cannot be read."
    with readable_errors(path):
        if not isinstance(content := parse_json(read_bytes(path)), dict):
            raise ValueError(f"it holds {content!r:.40}, not settings by name")
        return convert(content)
