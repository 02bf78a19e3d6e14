"""Texts cut into chunks by a pattern, streamed in pieces that cut through no chunk, and counted on all cores."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
import regex
from tinygpt.engine.cores import on_all_cores

__all__ = ["GPT2_SPLIT", "GPT4_SPLIT"]

#: The pattern by which GPT-2 cuts a text into chunks.
GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
#: The pattern by which GPT-4 cuts a text into chunks.
GPT4_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KNOWN_SPLITS = {GPT2_SPLIT, GPT4_SPLIT, GPT4_SPLIT.replace("{1,3}", "")}  # the last is Qwen's
BATCH = 1 << 22  # characters that are counted at a time
SAFE_CUT = regex.compile(r"(?r)(?<=[\p{L}\p{N}])(?=[^\p{L}\p{N}\p{M}'])")  # (?r): search from the end

def as_texts(source: str | Iterable[str]) -> Iterator[str]:
    "The one text, or each text of a corpus; half a surrogate pair (not a character) becomes U+FFFD."
    half = ""
    for text in [source] if isinstance(source, str | bytes) else source:
        if not isinstance(text, str):
            raise ValueError(f"expected text (str), got {type(text).__name__}: {text!r:.40}")
        text, half = half + text, ""
        if not text.isascii() and "\ud800" <= text[-1] <= "\udbff":
            text, half = text[:-1], text[-1]
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        yield text
    if half:
        yield "\ufffd"

def compile_split(pattern: str | None) -> regex.Pattern:
    "The pattern, compiled so that its matches, joined, are the text: what it would skip becomes a chunk, too."
    if pattern is None:
        return regex.compile(r"(?s:.+)")
    try:
        split = regex.compile(pattern)
    except (regex.error, TypeError) as error:
        raise ValueError(f"the pattern {pattern!r} does not work: {error}") from None
    if split.groups or split.flags & regex.VERBOSE or split.fullmatch(""):
        raise ValueError(f"the pattern {pattern!r} has groups (write them as (?:...)), or matches nothing")
    if pattern in KNOWN_SPLITS:
        return split
    return regex.compile(rf"(?:{pattern})|(?s:.)+?(?=(?:{pattern})|\Z)")

def special_pattern(allowed: str | Iterable[str], known: Iterable[str]) -> regex.Pattern:
    "A pattern that finds the allowed special tokens ('all', or a list of known ones), the longest first."
    if isinstance(allowed, str) and allowed != "all":
        raise ValueError(f"allowed_special={allowed!r} is one text; give a list of them: [{allowed!r}]")
    names = sorted(known if allowed == "all" else as_texts(allowed), key=len, reverse=True)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{unknown[0]!r} is not one of the special tokens {[*known]} of this tokenizer")
    return regex.compile(f"({'|'.join(map(regex.escape, names)) or '(?!)'})")  # (?!) never matches

def last_cut(buffer: str, end: int, form: str | None) -> int:
    "Where the buffer can be cut, at the latest before `end`; 0 if nowhere."
    for found in SAFE_CUT.finditer(buffer, 0, max(0, end)):
        cut = found.start()
        if form is None or unicodedata.is_normalized(form, buffer[cut - 1 : cut + 1]):
            return cut
    return 0

def pieces(
    texts: Iterable[str],
    pattern: str | None,
    special: regex.Pattern | None = None,  # finds special tokens, which stay whole
    form: str | None = None,  # a Unicode normal form that no cut may change
    size: int = 1 << 16,  # gather this many characters, then look for a place to cut
) -> Iterator[str]:
    "Join the texts and cut them anew, lazily, but never through a chunk or a special token."
    longest = len(special.pattern) if special else 0  # no special token is longer than the pattern of all
    buffer, enough = "", size
    for text in as_texts(texts):
        for start in range(0, len(text), size):
            buffer += text[start : start + size]
            if len(buffer) < enough or pattern not in KNOWN_SPLITS:
                continue
            cut = last_cut(buffer, len(buffer) - longest, form)
            for match in special.finditer(buffer) if special else ():
                if match.start() < cut < match.end():
                    cut = match.start()
            if cut:
                yield buffer[:cut]
            buffer, enough = buffer[cut:], size if cut else 2 * len(buffer)
    if buffer:
        yield buffer

def parts(texts: Iterable[str], pattern: str | None, special: regex.Pattern, form: str | None) -> Iterator[tuple]:
    "Pairs of a piece of the texts and whether it is a special token; the other pieces in this Unicode form."
    for piece in pieces(texts, pattern, special, form):
        for i, part in enumerate(special.split(piece)):
            is_special = i % 2 == 1  # the pattern is a group, so split keeps what it finds between the rest
            yield part if is_special or not form else unicodedata.normalize(form, part), is_special

def batches(texts: Iterable[str | None], size: int) -> Iterator[list[str | None]]:
    "Gather texts into lists of about `size` characters; None has no length."
    batch, length = [], 0
    for text in texts:
        batch.append(text)
        length += len(text or "")
        if length >= size:
            yield batch
            batch, length = [], 0
    yield batch

def count_chunks(texts: Iterable[str], pattern: str | None) -> Counter:
    "How often each distinct chunk occurs in all texts, counted on all cores."
    split, counts = compile_split(pattern), Counter()
    cut = chain.from_iterable(pieces([text], pattern, size=BATCH) for text in as_texts(texts))
    def count(batch: list[str]) -> Counter:
        return Counter(chain.from_iterable(map(split.findall, batch)))
    for counted in on_all_cores(count, batches(cut, BATCH), enough=2):
        counts.update(counted)
    return counts
