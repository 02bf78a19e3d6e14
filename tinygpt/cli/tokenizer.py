"""tinygpt tokenizer: train a tokenizer, or encode and decode with one."""

import re
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
import tinygpt as tg
from tinygpt.cli.settings import UsageError
from tinygpt.io.checkpoints import load_tokenizer
from tinygpt.show.progress import printable
from tinygpt.tokenizer import Tokenizer

def make_tokenizer(kind: str, vocab_size: int = 1024, text: tg.Corpus | None = None) -> Tokenizer:
    "A new tokenizer trained on the text, the course's tokenizer, or the one in a folder."
    if text is None and kind in ("auto", "char", "bpe"):
        raise UsageError(f"--tokenizer {kind} is not trained yet: give a folder, or course")
    if kind == "auto":
        kind = "course" if text.known_source or "<|assistant|>" in text.train.special_tokens else "bpe"
    if kind == "course":
        return tg.the_tokenizer()
    if kind == "char":
        return tg.CharTokenizer.train(chain(text.train, text.val))
    if kind == "bpe":
        special_tokens = {"<|end|>", *text.train.special_tokens} if text.train.whole_documents else ()
        return tg.BPETokenizer.train(text.train, vocab_size, sorted(special_tokens))
    tok = load_tokenizer(Path(kind).expanduser())
    if tok is None:
        raise ValueError(f"{kind} is not a tokenizer: give course, char, bpe, or a folder with a tokenizer.json")
    return tok

def read_stdin() -> Iterator[str]:
    "The lines of stdin, with their ends unchanged."
    if sys.stdin is None:
        raise ValueError("there is nothing to read: the input is closed")
    sys.stdin.reconfigure(encoding="utf-8", errors="strict", newline="")
    try:
        yield from sys.stdin
    except UnicodeDecodeError as error:
        raise ValueError(f"the input is not UTF-8 text: {error}") from None

def train(
    text: str,  # a file, a folder, or the name of a corpus
    *,
    vocab_size: int = 1024,  # how many tokens
    out: str,  # the folder to save it in
):
    "Train a byte-pair tokenizer on a text."
    if (Path(out).expanduser() / "tokenizer.json").exists():
        raise ValueError(f"{out} already has a tokenizer: name another folder")
    tok = make_tokenizer("bpe", vocab_size, tg.corpus(text))
    tok.save(Path(out).expanduser())
    print(f"{printable(out)}: {tok.vocab_size:,} tokens")

def encode(
    text: str | None = None,  # without it, stdin is read
    *,
    tokenizer: str = "course",  # a folder with a tokenizer.json, such as that of a run
):
    "Print the token ids of a text, in one line."
    tok = make_tokenizer(tokenizer)
    for place, id in enumerate(tok.encode_iterable(read_stdin() if text is None else [text])):
        sys.stdout.write(f" {id}" if place else str(id))
    print()

def decode(
    ids: list[str] = (),  # without any, stdin is read
    *,
    tokenizer: str = "course",  # a folder with a tokenizer.json, such as that of a run
):
    "Print the text of token ids."
    tok = make_tokenizer(tokenizer)
    words = ids or "".join(read_stdin()).split()
    if wrong := [word for word in words if not re.fullmatch("[0-9]{1,18}", word)]:
        raise ValueError(f"{wrong[0]!r:.40} is not a token id: ids are whole numbers, with spaces between")
    if sys.stdout.isatty():
        return print(printable(tok.decode(map(int, words))))
    sys.stdout.buffer.write(tok.decode_bytes(map(int, words)))  # not always whole characters
    sys.stdout.buffer.flush()
