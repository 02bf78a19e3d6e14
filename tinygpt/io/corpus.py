"""Texts to train on and to validate with: tales and chats from the grammar, downloads, your own files."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from tinygpt import tales
from tinygpt.io import downloads, text as texts
from tinygpt.world.skills import spans


TALES, CHATS = (4000, 500, 300), (2000, 200)     # how many documents: train, val, heldout
SPECIAL_TOKENS = ("<|user|>", "<|assistant|>", "<|end|>")
UNSEEN = 10**9                                   # seeds from here on are for validation

class Documents:
    "One split of a corpus: its documents are made or read anew each time."

    def __init__(
        self,
        begin: Callable[[], Iterable[Iterable[str]]],  # yields each document, as its pieces
        about: str,  # how much there is, in words
        whole_documents: bool,  # whether each document is an example of its own; False: running text
        special_tokens: tuple[str, ...] = (),  # those that the documents may contain
    ):
        self.begin, self.about = begin, about
        self.whole_documents, self.special_tokens = whole_documents, special_tokens

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self.begin())

    def __repr__(self):
        return f"{type(self).__name__}({self.about})"


class Seeded(Documents):
    "Documents that a program writes, one for each seed."

    def __init__(self, write: Callable[[int], str], seeds: range, special_tokens: tuple[str, ...] = ()):
        about = f"{len(seeds):,} documents"
        super().__init__(lambda: ([write(seed)] for seed in seeds), about, True, special_tokens)
        self.seeds = seeds

    def __len__(self) -> int:
        return len(self.seeds)


@dataclass(frozen=True)
class Corpus:
    "A training text and a validation text; iterating over a corpus yields the documents of `train`."

    name: str
    train: Documents
    val: Documents
    heldout: Documents | None = None  # pairs of colour and thing that `train` never has
    known_source: bool = False  # whether the exact probability of each text is known

    @property
    def special_tokens(self) -> tuple[str, ...]:
        "The special tokens that its documents may contain."
        return self.train.special_tokens

    @property
    def whole_documents(self) -> bool:
        "Whether each document is an example of its own; False: running text."
        return self.train.whole_documents

    def __iter__(self) -> Iterator[str]:
        return iter(self.train)

    def logprob(self, text: str, heldout: bool = False) -> float | None:
        "The log of the probability that the source writes this text; None if it is unknown."
        return tales.logprob(text, heldout) if self.known_source else None

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        "Where in a text a skill is needed."
        return spans(text) if self.known_source else []

    def __repr__(self):
        splits = {"train": self.train, "val": self.val, "heldout": self.heldout}
        listed = ", ".join(f"{name}: {split.about}" for name, split in splits.items() if split)
        return f"Corpus({self.name}; {listed})"


def strange_tale(number: int) -> str:
    "A tale with a colour and a thing that the tales of `train` never bring together."
    told = ((tales.tale(seed, heldout=True), tales.tale(seed)) for seed in count(1000 * number))
    return next(strange for strange, plain in told if strange != plain)


def tales_corpus() -> Corpus:
    "Tales from the grammar; to make them costs nothing until they are read."
    train, val, heldout = TALES
    unseen = Seeded(tales.tale, range(UNSEEN, UNSEEN + val))
    strange = Seeded(strange_tale, range(heldout))
    return Corpus("tales", Seeded(tales.tale, range(train)), unseen, strange, known_source=True)


def chats_corpus() -> Corpus:
    "Conversations about tales; special tokens in them say who speaks."
    train, val = CHATS
    unseen = Seeded(tales.chat, range(UNSEEN, UNSEEN + val), SPECIAL_TOKENS)
    return Corpus("chats", Seeded(tales.chat, range(train), SPECIAL_TOKENS), unseen, known_source=True)


def running_text(parts: list[tuple[Path, int, int]]) -> Documents:
    "Files, or parts of them from one byte to another; each is a document."
    about = f"{sum(stop - start for _, start, stop in parts):,} bytes"
    return Documents(lambda: (texts.read_text(*part) for part in parts), about, whole_documents=False)


def own_corpus(name: str, files: list[Path]) -> Corpus:
    "Files as running text: the first 90 % of the bytes to learn from, the rest for validation."
    sizes = [texts.text_size(path) for path in files]
    left = sum(sizes) * 9 // 10
    if not left:
        raise ValueError(f"{name} has {sum(sizes)} bytes of text: nothing to learn from, let alone "
                         "to keep for validation; give a file with some pages of text")
    train, val = [], []
    for path, size in zip(files, sizes):
        cut = min(left, size)
        left -= cut
        train += [(path, 0, cut)] if cut else []
        val += [(path, cut, size)] if cut < size else []
    return Corpus(name, running_text(train), running_text(val))


def split_stories(parts: Iterable[str], between: str = "<|endoftext|>") -> Iterator[str]:
    "The stories of a text in which a mark stands between any two."
    rest = ""
    for part in parts:
        *stories, rest = (rest + part).split(between)
        yield from filter(None, map(str.strip, stories))
    yield from filter(None, [rest.strip()])


def tinystories_split(path: Path) -> Documents:
    "A file of TinyStories, each story a lesson of its own."
    def begin(): return ([story] for story in split_stories(texts.read_text(path)))

    return Documents(begin, f"{texts.text_size(path):,} bytes", whole_documents=True)


def tinystories_corpus() -> Corpus:
    "Two million stories in simple words (2 GB, downloaded once)."
    splits = {name: tinystories_split(path) for name, path in downloads.tinystories().items()}
    return Corpus("tinystories", splits["train"], splits["val"])


CORPORA = {
    "tales": tales_corpus,
    "chats": chats_corpus,
    "shakespeare": lambda: own_corpus("shakespeare", [downloads.shakespeare()]),
    "tinystories": tinystories_corpus,
}

def corpus(name_or_path: str | Path) -> Corpus:
    "A corpus by name (tales, chats, shakespeare, tinystories), or your own file, folder or .gz."
    if isinstance(name_or_path, str) and name_or_path in CORPORA:
        return CORPORA[name_or_path]()
    path = Path(name_or_path).expanduser()
    if not path.exists():
        raise ValueError(f"{str(name_or_path)!r} is no corpus and no path that exists; the corpora "
                         f"are {', '.join(CORPORA)}, and all else is taken for a file or folder")
    return own_corpus(path.name, texts.text_files(path))
