"""Files that are written whole or not at all, and JSON files that are read with checks."""

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LARGEST_JSON = 100_000_000  # bytes; a tokenizer of a quarter of a million tokens takes some ten million

@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    "A temporary file to write; it replaces `path` once it is complete on disk. After an error, `path` is unchanged."
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        draft.touch()
        mode = draft.stat().st_mode  # what the umask allows
        yield draft
        draft.chmod(mode)
        with open(draft, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)

def write_json(path: Path, content: dict):
    "Write JSON atomically."
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")

def parse_json(raw: bytes):
    "The value of a JSON text; raise ValueError if an object has the same key twice."
    def unique(pairs: list[tuple]) -> dict:
        if repeated := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
            raise ValueError(f"it has the key {repeated[0]!r:.60} more than once")
        return dict(pairs)
    return json.loads(raw, object_pairs_hook=unique)

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
    path = Path(path)
    with readable_errors(path):
        if path.exists() and (not path.is_file() or path.stat().st_size > LARGEST_JSON):  # opening a pipe would block
            raise ValueError(f"it is not a regular file of at most {LARGEST_JSON} bytes")
        if not isinstance(content := parse_json(path.read_bytes()), dict):
            raise ValueError(f"it holds {content!r:.40}, not settings by name")
        return convert(content)
