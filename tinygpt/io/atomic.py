"""Atomic writes: a file is written completely or not at all."""

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
except ImportError:  # Windows has no fcntl, and does not let an open file be removed
    fcntl = None

@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    "Add the file's name to an OSError that lacks it."
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise

def open_locked(draft: Path) -> BinaryIO:
    "Open a new file, locked until it is closed or its process ends, so that no other process removes it."
    while True:
        file = open(draft, "wb")
        with suppress(OSError):
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX)
        if draft.exists():  # otherwise another process removed it before it was locked
            return file
        file.close()

@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    "Yield a temporary file that replaces `path` when it is complete on disk; after an error, `path` is unchanged."
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_drafts(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.draft")
    try:
        with named_errors(path), open_locked(draft) as file:
            mode = os.fstat(file.fileno()).st_mode  # as the umask sets it
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
    "Remove the drafts that killed processes left; those of running processes are locked."
    for draft in folder.glob(".*.draft"):
        if re.fullmatch(r"\..+\.\d+\.\d+\.draft", draft.name):
            with suppress(OSError), open(draft, "rb") if fcntl else nullcontext() as file:
                if fcntl:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                draft.unlink()

def checksum(content: dict) -> str:
    "The CRC-32 of the content of a JSON file."
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"

def write_json(path: Path, content: dict):
    "Write JSON atomically."
    with atomic_write(path) as draft:
        draft.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
