"""A text as token ids in a file: encoded once, on all cores, and read as it is needed."""

import hashlib
import json
import os
import tempfile
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from tinygpt.engine.cores import on_all_cores
from tinygpt.engine.splitting import as_texts, pieces, special_pattern
from tinygpt.io.corpus import Documents
from tinygpt.io.downloads import cache_folder
from tinygpt.tokenizer import BPETokenizer, CharTokenizer


MEGABYTE = 1 << 20     # characters, more or less

def identity(tok) -> str:
    "Everything about a tokenizer that its files would say."
    if hasattr(tok, "to_json"):
        return json.dumps(tok.to_json())
    with tempfile.TemporaryDirectory() as folder:
        (getattr(tok, "save_pretrained", None) or tok.save)(folder)
        found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return json.dumps([(path.name, path.read_bytes().decode("latin1")) for path in found])


def fingerprint(split: Documents, tok) -> str:
    "The SHA-256 of the texts, of where they end, of the markers and of the tokenizer."
    found, empty = hashlib.sha256(), True
    for document in split.begin():
        for piece in as_texts(document):
            found.update(piece.encode())
            empty = empty and not piece
        found.update(b"\xff")     # a byte that occurs in no text
    if empty:
        raise ValueError(f"there is no text in {split}; of a text of yours a tenth is kept for "
                         "val, so give a longer one")
    layout = "tokens 1"           # to be counted up if ever the file changes
    found.update(json.dumps([layout, sorted(split.special_tokens), identity(tok)]).encode())
    return found.hexdigest()


def safe_pieces(document: Iterable[str], tok, markers: tuple[str, ...]) -> Iterator[str]:
    "A document in pieces that have, one after the other, the ids of the whole."
    if isinstance(tok, BPETokenizer):
        longest = max(map(len, tok.special_tokens), default=0)
        special = special_pattern(markers, tok.special_tokens)
        return pieces(as_texts(document), tok.pattern, special, longest, tok.normalizer, MEGABYTE)
    return as_texts(document) if isinstance(tok, CharTokenizer) else iter(["".join(document)])


def portions(split: Documents, tok) -> Iterator[list[str | None]]:
    "The pieces of all documents, with None where one ends, in lists of about a megabyte."
    portion, length = [], 0
    for document in split.begin():
        for piece in chain(safe_pieces(document, tok, split.special_tokens), [None]):
            portion.append(piece)
            length += len(piece or "")
            if length >= MEGABYTE:
                yield portion
                portion, length = [], 0
    yield portion


def encode_portion(portion: list[str | None], encode: Callable, end: list[int],
                   dtype: type) -> tuple[np.ndarray, list[int]]:
    "The ids of a portion, an end after each document, and where in them the next one starts."
    ids, starts = [], []
    for piece in portion:
        ids += end if piece is None else encode(piece)
        starts += [len(ids)] if piece is None else []
    return np.array(ids, dtype), starts


def write_tokens(path: Path, encoded: Iterable[tuple[np.ndarray, list[int]]], end: list[int],
                 dtype: type):
    "Write ids as they come, an end in front, then where documents start: the whole file or none."
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    n, bounds = len(end), array("q", [len(end)])
    try:
        with draft.open("wb") as file:
            file.write(bytes(24) + np.array(end, dtype).tobytes())
            for ids, starts in encoded:
                file.write(ids.tobytes())
                bounds.extend(n + start for start in starts)
                n += len(ids)
            file.write(bounds.tobytes())
            file.seek(0)
            file.write(np.array([n, len(bounds) - 1, np.dtype(dtype).itemsize]).tobytes())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def is_whole(path: Path) -> bool:
    "Whether a token file is there and has the size that its head says."
    if not path.is_file() or path.stat().st_size < 24:
        return False
    n, documents, width = map(int, np.fromfile(path, np.int64, 3))
    return path.stat().st_size == 24 + n * width + 8 * (documents + 1)


class Tokens:
    "A text as ids in a file, and where its documents start."

    def __init__(self, path: Path, vocab_size: int, whole_documents: bool):
        self.path, self.vocab_size = path, vocab_size
        self.whole_documents = whole_documents  # whether each is an example of its own; False: running text
        self.n, documents, width = map(int, np.fromfile(path, np.int64, 3))
        self.dtype = {2: np.uint16, 4: np.uint32}[width]
        self.bounds = np.fromfile(path, np.int64, offset=24 + self.n * width)

    @property
    def ids(self) -> np.memmap:
        "All ids, read from the file as they are needed."
        return np.memmap(self.path, self.dtype, mode="r", offset=24, shape=(self.n,))

    @property
    def starts(self) -> np.ndarray:
        "Where each document starts."
        return self.bounds[:-1]

    def rows(self, documents: np.ndarray) -> np.ndarray:
        "From where to where the ids of documents go, with the ends on both sides if there are any."
        begins = self.bounds[documents] - self.bounds[0]
        return np.stack([begins, self.bounds[documents + 1]], axis=1)

    def __len__(self) -> int:
        return self.n

    def __repr__(self):
        return f"Tokens({self.n:,} ids of {self.vocab_size:,} in {len(self.starts):,} documents)"


def encode_corpus(split: Documents, tok, folder: str | Path | None = None) -> Tokens:
    "Encode a split once: the ids are kept in a file, in the user's cache or a folder of yours."
    if not isinstance(split, Documents):
        raise ValueError(f"{split!r:.60} is not a split: give train, val or heldout of a corpus")
    path = Path(folder or cache_folder() / "tokens") / f"{fingerprint(split, tok)}.tokens"
    if not is_whole(path):
        options = {"allowed_special": split.special_tokens} if isinstance(tok, BPETokenizer) else {}
        special = getattr(tok, "special_tokens", {})
        end = [special["<|end|>"]] if "<|end|>" in special else []
        dtype = np.uint16 if tok.vocab_size <= 1 << 16 else np.uint32
        encode = partial(tok.encode, **options)
        work = partial(encode_portion, encode=encode, end=end, dtype=dtype)
        write_tokens(path, on_all_cores(work, portions(split, tok)), end, dtype)
    return Tokens(path, tok.vocab_size, split.whole_documents)
