"""Texts on disk: found in folders, read piece by piece."""

import codecs
import difflib
import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from tinygpt.io.reading import open_regular

SUFFIXES = (".txt", ".md", ".text", ".txt.gz", ".md.gz", ".text.gz")  # the endings of text files in a folder

def text_files(path: str | Path) -> list[Path]:
    "The file itself, or the text files of a folder and its subfolders, sorted; hidden and linked folders are left out."
    path = Path(path).expanduser()
    try:
        path.stat()
    except FileNotFoundError:
        meant = f"; did you mean {' or '.join(near)}?" if (near := near_names(path)) else ""
        raise FileNotFoundError(f"there is no file or folder {path}{meant}") from None
    if not path.is_dir():
        return [path]
    files, errors = [], []
    for folder, inner, names in os.walk(path, onerror=errors.append):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found = [name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
        files += filter(Path.is_file, (Path(folder, name) for name in found))
    if errors:
        raise errors[0]
    if not files:
        raise FileNotFoundError(f"{path} holds no text: no file in it ends in {', '.join(SUFFIXES)}")
    return sorted(files)

def near_names(path: Path) -> list[str]:
    "Existing paths with a name that resembles the first missing part of this one."
    for missing, folder in zip((path, *path.parents), path.parents):
        if folder.is_dir():
            names = [name for name in os.listdir(folder) if name != missing.name]  # a broken link is listed, too
            return [str(folder / name) for name in difflib.get_close_matches(missing.name, names)]
    return []

def text_size(path: str | Path) -> int:
    "The number of bytes in a file, after decompression."
    with _opened(path) as file:
        return file.seek(0, os.SEEK_END)

def read_text(path: str | Path, start: int = 0, stop: int | None = None, piece: int = 1 << 20) -> Iterator[str]:
    """The characters of a file that begin at byte `start` or later and before `stop`, about `piece` bytes at a time.

    Bytes are counted after decompression. Adjacent ranges give the whole text, each character once. Line ends are
    kept, a byte order mark at the start is removed."""
    with _opened(path) as file:
        if file.read(3) == codecs.BOM_UTF8:
            start = max(start, 3)
        at = file.seek(max(start - 3, 0))  # if `start` is inside a character, that begins here or later
        before = file.read(start - at)
        half = before[codecs.utf_8_decode(before, "ignore")[1] :]
        at, inside, more = at + len(before), bool(half), True
        while more:
            more = file.read(piece if stop is None else min(piece, max(stop - at, 1 if half else 0)))
            at, data = at + len(more), half + more
            try:
                text, used = codecs.utf_8_decode(data, "strict", not more)
            except UnicodeDecodeError as error:
                raise ValueError(_not_utf8(path, error, at - len(data) + error.start)) from None
            half = data[used:]
            if text[inside:]:
                yield text[inside:]
            inside = inside and not text

def _not_utf8(path: str | Path, error: UnicodeDecodeError, at: int) -> str:
    "The message for a file that is not UTF-8: what is wrong, at which byte, and what to do."
    if at == 0 and error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return f"{path} is UTF-16, not UTF-8: save it as UTF-8 in an editor, or with iconv -f UTF-16 -t UTF-8"
    packed = " of what is packed in it" if str(path).lower().endswith(".gz") else ""
    return (f"{path} is not UTF-8: {error.reason} at byte {at}{packed} (0x{error.object[error.start]:02x}); "
            "if it is text in another encoding, save it as UTF-8")

@contextmanager
def _opened(path: str | Path) -> Iterator[BinaryIO]:
    "A regular file open for reading bytes, with a .gz unpacked on the fly; raise ValueError if it is damaged."
    with open_regular(path) as file:
        if not str(path).lower().endswith(".gz"):
            yield file
            return
        try:
            if not file.seek(0, os.SEEK_END):
                raise EOFError("it is empty")
            file.seek(0)
            with gzip.open(file) as unpacked:
                yield unpacked
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is damaged, or not a gzip file: {error}") from None
