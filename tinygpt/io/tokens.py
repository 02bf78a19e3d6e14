"""Texts as token ids in files: encoded once, on all cores, and read in parts."""

import hashlib
import json
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
import numpy as np
from tinygpt.engine.cores import on_all_cores
from tinygpt.engine.splitting import as_texts, batches, pieces, special_pattern
from tinygpt.io.atomic import atomic_write
from tinygpt.io.corpus import Documents
from tinygpt.io.downloads import cache_folder, writable_cache
from tinygpt.tokenizer import BPETokenizer, CharTokenizer

__all__ = ["Tokens", "encode_corpus"]

MEGABYTE = 1 << 20  # characters: about this many bytes of text
HEADER = 32  # bytes, 8 each: ids, documents, bytes an id, and a CRC-32 of the rest of the file and of these three

def text_sha256(split: Documents) -> str:
    "The SHA-256 of the texts, of where they end and of their special tokens."
    found, empty = hashlib.sha256(), True
    for document in split.begin():
        for piece in as_texts(document):
            found.update(piece.encode())
            empty = empty and not piece
        found.update(b"\xff")  # a byte that occurs in no text
    if empty:
        raise ValueError(f"there is no text in {split}; val is a tenth of your own text, so give a longer one")
    found.update(json.dumps(sorted(split.special_tokens)).encode())
    return found.hexdigest()

def tokenizer_sha256(tok) -> str:
    "The SHA-256 of the files that a tokenizer saves."
    with tempfile.TemporaryDirectory() as folder:
        (getattr(tok, "save_pretrained", None) or tok.save)(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        content = json.dumps([(path.name, path.read_bytes().decode("latin1")) for path in files])
    return hashlib.sha256(content.encode()).hexdigest()

def fingerprint(split: Documents, tok) -> str:
    "The name of a token file: half of the SHA-256 of the text, and half of that of the tokenizer."
    return f"{text_sha256(split)[:32]}-{tokenizer_sha256(tok)[:32]}"

def cut_documents(split: Documents, tok) -> Iterator[str | None]:
    "The pieces of all documents, with None where one ends."
    for document in split.begin():
        if isinstance(tok, BPETokenizer):  # cut where no token can cross, so that the ids are those of the whole
            special = special_pattern(split.special_tokens, tok.special_tokens)
            document = pieces(document, tok.pattern, special, tok.normalizer, MEGABYTE)
        elif not isinstance(tok, CharTokenizer):
            document = ["".join(document)]
        yield from as_texts(document)
        yield None

def encode_portion(portion: list[str | None], encode: Callable, end: list[int],
                   dtype: type) -> tuple[np.ndarray, list[int]]:
    "The ids of a portion, with `end` after each document, and where in them the next document starts."
    ids, starts = [], []
    for piece in portion:
        ids += end if piece is None else encode(piece)
        if piece is None:
            starts.append(len(ids))
    return np.array(ids, dtype), starts

def write_tokens(path: Path, encoded: Iterable[tuple[np.ndarray, list[int]]], end: list[int], dtype: type):
    "Write a token file: its header, `end` and the encoded ids, and where documents start."
    n, bounds, checksum = len(end), array("q", [len(end)]), 0
    def content() -> Iterator[bytes]:
        nonlocal n
        yield np.array(end, dtype).tobytes()
        for ids, starts in encoded:
            yield ids.tobytes()
            bounds.extend(n + start for start in starts)
            n += len(ids)
        yield bounds.tobytes()
    with atomic_write(path) as draft, draft.open("wb") as file:
        file.write(bytes(HEADER))
        for part in content():
            file.write(part)
            checksum = zlib.crc32(part, checksum)
        header = np.array([n, len(bounds) - 1, np.dtype(dtype).itemsize]).tobytes()
        file.seek(0)
        file.write(header + np.array([zlib.crc32(header, checksum)]).tobytes())

def is_whole(path: Path) -> bool:
    "Whether a token file exists and its content has the checksum in its header."
    if not path.is_file():
        return False
    with path.open("rb") as file:
        header, checksum = file.read(HEADER), 0
        for part in iter(partial(file.read, 1 << 20), b""):
            checksum = zlib.crc32(part, checksum)
    return len(header) == HEADER and header[24:] == np.array([zlib.crc32(header[:24], checksum)]).tobytes()

class Tokens:
    "A text as ids in a file, and where its documents start."

    def __init__(self, path: Path, vocab_size: int, whole_documents: bool):
        self.path, self.vocab_size = path, vocab_size
        self.whole_documents = whole_documents  # whether each is an example of its own; False: running text
        self.text_sha256, _, self.tokenizer_sha256 = path.stem.partition("-")
        self.n, documents, width = map(int, np.fromfile(path, np.int64, 3))
        self.dtype = {2: np.uint16, 4: np.uint32}[width]
        self.bounds = np.fromfile(path, np.int64, offset=HEADER + self.n * width)
        self.starts = self.bounds[:-1]  # where each document starts

    @property
    def ids(self) -> np.memmap:
        "All ids, read from the file as they are needed."
        return np.memmap(self.path, self.dtype, mode="r", offset=HEADER, shape=(self.n,))

    def spans(self, documents: np.ndarray) -> np.ndarray:
        "Where the ids of each document begin and stop, including the end marks on both sides, if there are any."
        begins = self.bounds[documents] - self.bounds[0]
        return np.stack([begins, self.bounds[documents + 1]], axis=1)

    def __len__(self) -> int:
        return self.n

    def __repr__(self):
        return f"Tokens({self.n:,} ids, vocabulary {self.vocab_size:,}, {len(self.starts):,} documents)"

def encode_corpus(split: Documents, tok, folder: str | Path | None = None) -> Tokens:
    "The tokens of a split, encoded once: the ids are kept in a file in this folder (default: the user's cache)."
    if not isinstance(split, Documents):
        raise ValueError(f"{split!r:.60} is not a split: give train, val or heldout of a corpus")
    path = Path(folder or cache_folder() / "tokens") / f"{fingerprint(split, tok)}.tokens"
    if not is_whole(path):
        options = {"allowed_special": split.special_tokens} if isinstance(tok, BPETokenizer) else {}
        end = [id for name, id in getattr(tok, "special_tokens", {}).items() if name == "<|end|>"]
        dtype = np.uint16 if tok.vocab_size <= 1 << 16 else np.uint32
        work = partial(encode_portion, encode=partial(tok.encode, **options), end=end, dtype=dtype)
        portions = batches(cut_documents(split, tok), MEGABYTE)
        with writable_cache():
            write_tokens(path, on_all_cores(work, portions), end, dtype)
    return Tokens(path, tok.vocab_size, split.whole_documents)
