"""Texts to train on and to validate with: tales and chats from the grammar, downloads, your own files."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from tinygpt import tales
from tinygpt.io import downloads
from tinygpt.io.text import read_text, text_files, text_size
from tinygpt.world.drills import STAGES, drill
from tinygpt.world.grammar import the_grammar
from tinygpt.world.skills import spans

__all__ = ["Documents", "Corpus", "corpus"]

CORPORA = ("tales", "chats", "drills", "shakespeare", "tinystories")
SPECIAL_TOKENS = ("<|user|>", "<|assistant|>", "<|end|>")
UNSEEN = 10**9  # seeds from here on are for validation
TALES = {"train": range(4000), "val": range(UNSEEN, UNSEEN + 500), "heldout": range(300)}
DRILLS = {"train": range(STAGES[-1][0]), "val": range(UNSEEN, UNSEEN + 500)}
CHATS = {"train": range(20_000), "val": range(UNSEEN, UNSEEN + 500)}

@dataclass(eq=False, repr=False)
class Documents:
    "One split of a corpus: its documents are made or read anew each time."
    begin: Callable[[], Iterable[Iterable[str]]]  # yields each document, as its pieces
    about: str  # its size, for printing: "4,000 documents"
    whole_documents: bool  # whether each document is an example of its own; False: running text
    special_tokens: tuple[str, ...] = ()  # those that the documents may contain

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self.begin())

    def __repr__(self):
        return f"{type(self).__name__}({self.about})"

class Seeded(Documents):
    "Documents that a program writes, one for each seed."

    def __init__(self, write: Callable[[int], str], seeds: range, special_tokens: tuple[str, ...] = ()):
        super().__init__(lambda: ([write(seed)] for seed in seeds), f"{len(seeds):,} documents", True, special_tokens)
        self.seeds = seeds

    def __len__(self) -> int:
        return len(self.seeds)

@dataclass(frozen=True)
class Corpus:
    "A training text and a validation text; iterating over a corpus yields the documents of `train`."
    name: str
    train: Documents
    val: Documents
    heldout: Documents | None = None  # with pairs of colour and thing that never occur in `train`
    known_source: bool = False  # whether the exact probability of each text is known
    in_order: bool = False  # whether training reads the texts in their order: a curriculum

    def __iter__(self) -> Iterator[str]:
        return iter(self.train)

    def logprob(self, text: str, heldout: bool = False) -> float | None:
        "The log of the probability that the source writes this text; None if it is unknown."
        return tales.logprob(text, heldout) if self.known_source else None

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        "Where in a text a skill is needed."
        return spans(text) if self.known_source else []

    def __repr__(self):
        splits = [(name, getattr(self, name)) for name in ("train", "val", "heldout")]
        return f"Corpus({self.name}; {', '.join(f'{name}: {split.about}' for name, split in splits if split)})"

def strange_tale(number: int) -> str:
    "A tale with a colour and a thing that never occur together in `train`."
    return next(tale for seed in count(1000 * number) if (tale := tales.tale(seed, heldout=True)) != tales.tale(seed))

def chat_or_drill(number: int) -> str:
    "A conversation or, for one number in four and in place of most conversations that begin with a tale, a drill."
    text = tales.chat(number)
    wishes = tuple(f"<|user|> {steps[0].name}<" for _, steps in the_grammar().rules["Wish"])
    rare = text.startswith(wishes) and number % 8 != 1  # a tale is long, and told already
    return drill(STAGES[-1][0] + number) if rare or number % 4 == 0 else text

def running_text(parts: list[tuple[Path, int, int]]) -> Documents:
    "Files, or ranges of bytes of files, as running text; each is a document."
    parts = [(path, start, stop) for path, start, stop in parts if start < stop]
    about = f"{sum(stop - start for _, start, stop in parts):,} bytes"
    return Documents(lambda: (read_text(*part) for part in parts), about, whole_documents=False)

def stories(path: Path) -> Documents:
    "A file of TinyStories, each story an example of its own."
    about = f"{text_size(path):,} bytes"
    return Documents(lambda: ([story] for story in split_stories(read_text(path))), about, whole_documents=True)

def own_corpus(name: str, files: list[Path]) -> Corpus:
    "Files as running text: the first 90 % of the bytes for training, the rest for validation."
    sizes = [text_size(path) for path in files]
    left, train, val = sum(sizes) * 9 // 10, [], []
    for path, size in zip(files, sizes):
        cut = min(left, size)
        left -= cut
        train.append((path, 0, cut))
        val.append((path, cut, size))
    found = Corpus(name, running_text(train), running_text(val))
    if not (any(found.train) and any(found.val)):
        raise ValueError(f"{name} has {sum(sizes)} bytes of text, too few to train on and to validate with: "
                         "give some pages of text")
    return found

def split_stories(parts: Iterable[str], between: str = "<|endoftext|>") -> Iterator[str]:
    "The stories of a text that comes in parts, with a mark between any two stories."
    rest = ""
    for part in parts:
        *stories, rest = (rest + part).split(between)
        yield from filter(None, map(str.strip, stories))
    yield from filter(None, [rest.strip()])

def corpus(name_or_path: str | Path) -> Corpus:
    "A corpus by name (tales, chats, drills, shakespeare, tinystories), or from your own file, folder or .gz."
    match name_or_path:
        case "tales":  # from the grammar, each made when it is read
            write = {"train": tales.tale, "val": tales.tale, "heldout": strange_tale}
            splits = {name: Seeded(write[name], seeds) for name, seeds in TALES.items()}
            return Corpus("tales", **splits, known_source=True)
        case "chats":  # conversations, with special tokens that say who speaks; among those for training, drills
            write = {"train": chat_or_drill, "val": tales.chat}
            splits = {name: Seeded(write[name], seeds, SPECIAL_TOKENS) for name, seeds in CHATS.items()}
            return Corpus("chats", **splits, known_source=True)
        case "drills":  # a curriculum of conversations in which words must be found again
            splits = {name: Seeded(drill, seeds, SPECIAL_TOKENS) for name, seeds in DRILLS.items()}
            return Corpus("drills", **splits, in_order=True)
        case "shakespeare":
            return own_corpus("shakespeare", [downloads.shakespeare()])
        case "tinystories":  # two million stories in simple words (2 GB)
            return Corpus("tinystories", **{name: stories(path) for name, path in downloads.tinystories().items()})
    if name_or_path == "":
        raise ValueError("the name of the text is empty; for all texts in this folder, give '.'")
    path = Path(name_or_path).expanduser()
    if not os.path.exists(path):  # Path.exists raises an error where a name is too long to be one
        known = ", ".join(CORPORA)
        raise ValueError(f"there is no corpus, file or folder {str(name_or_path)!r:.60}; the corpora are {known}")
    return own_corpus(path.name, text_files(path))
