"""Files written whole or not at all, and JSON read without trust."""

import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


LARGEST_JSON = 100_000_000  # bytes; a tokenizer of a quarter of a million tokens takes some ten million

@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    "A draft to write beside a file, which then takes its place; where something goes wrong, the file stays as it was."
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, content: dict):
    "Write a file whole or not at all."
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def parse_json(raw: bytes):
    "What a JSON text says, if it says nothing twice."

    def once(pairs: list[tuple]) -> dict:
        if len(content := dict(pairs)) < len(pairs):
            name = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"it says more than once what {name!r:.60} is")
        return content

    return json.loads(raw, object_pairs_hook=once)


@contextmanager
def readable_errors(path: str | Path) -> Iterator[None]:
    "Make sense of a file, or say what is wrong with it."
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        reason = error if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise ValueError(f"{path} is damaged, or of another kind than expected: {reason}") from error


def read_json(path: str | Path, understand: Callable):
    "Read a file and make sense of it, or say what is wrong with it."
    with readable_errors(path):
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
            raise ValueError("it is no file")
        if os.path.exists(path) and (size := os.path.getsize(path)) > LARGEST_JSON:
            raise ValueError(f"it has {size} bytes, and {LARGEST_JSON} at most are read")
        return understand(parse_json(Path(path).read_bytes()))
