"""Files that are written whole or not at all."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
