"""Files that are written whole or not at all."""

import json
import os
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO
try:
    import fcntl
except ImportError:  # on Windows, where an open file cannot be removed
    fcntl = None

@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    "Name the file in an OSError that does not say which it is about."
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise

def open_locked(draft: Path) -> BinaryIO:
    "A new file, locked until it is closed or its writer is killed, so that nobody removes it as left behind."
    while True:
        file = open(draft, "wb")
        with suppress(OSError):
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX)
        if draft.exists():  # else somebody removed it before it was locked
            return file
        file.close()

@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    "A temporary file to write; it replaces `path` once it is complete on disk. After an error, `path` is unchanged."
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_drafts(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.draft")
    try:
        with named_errors(path), open_locked(draft) as file:
            mode = os.fstat(file.fileno()).st_mode  # what the umask allows
            yield draft
            draft.chmod(mode)
            with open(draft, "r+b") as written:
                os.fsync(written.fileno())
            if fcntl:
                os.replace(draft, path)
        if not fcntl:
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)

def remove_drafts(folder: Path):
    "Remove the drafts of writers that were killed; those of living ones are locked."
    for draft in folder.glob(".*.draft"):
        if re.fullmatch(r"\..+\.\d+\.\d+\.draft", draft.name):
            with suppress(OSError), open(draft, "rb") if fcntl else nullcontext() as file:
                if fcntl:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                draft.unlink()

def checksum(content: dict) -> str:
    "The CRC-32 of what a JSON file says."
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"

def write_json(path: Path, content: dict):
    "Write JSON atomically."
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
