"""Cut texts into chunks by a pattern, stream them in pieces that never cut through a chunk, and count on all cores."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
import regex
from tqdm import tqdm
from tinygpt.engine.cores import on_all_cores

__all__ = ["GPT2_SPLIT", "GPT4_SPLIT"]

#: The pattern by which GPT-2 cuts a text into chunks.
GPT2_SPLIT = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
#: The pattern by which GPT-4 cuts a text into chunks.
GPT4_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
#: The pattern of GPT-4o and later models.
O200K_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KNOWN_SPLITS = {GPT2_SPLIT, GPT4_SPLIT, GPT4_SPLIT.replace("{1,3}", ""), O200K_SPLIT}  # the third is Qwen's
BATCH = 1 << 22  # characters that are counted at a time
LONG_CHUNK = 1000  # characters of a chunk that a tokenizer learns from
UNBROKEN = 1 << 22  # characters without a place to cut that are held in memory
LONGEST = 5_000  # characters of a pattern
PATIENCE = 10  # seconds that a pattern of the user's may take, plus one for every 10,000 characters
NOTHING = "\udfff"  # half a surrogate pair, which occurs in no text (faster than a pattern that can never match)
SAFE_CUT = regex.compile(r"(?r)(?<=[\p{L}\p{N}])(?=[^\p{L}\p{N}\p{M}'])")  # (?r): search from the end

# What `regex` and Oniguruma (used by the tokenizers library) read alike. They differ in much else: \w, ^ and $,
# {1,3}+, (?i:ss), which is one letter in German, (?i:i), which is another one in Turkish, and [^\s\S].
SET = (r"\\[sd]|\\p\{(?:L[ultmo]?|M[nce]?|N[dlo]?|P[cdseifo]?|S[mcko]?|Z[slp]?|"
       r"Arabic|Cyrillic|Devanagari|Greek|Han|Hangul|Hebrew|Hiragana|Katakana|Latin|Thai)\}")
CHAR = r"[^\\\[\]\-]|\\[!-/:-@\[-`{-~ rntfv]"
CLASS = rf"\[\^?+-?(?:(?!&&)(?:{SET}|(?:{CHAR})(?:-(?:{CHAR}))?))+-?\]"
ATOM = rf"{SET}|{CLASS}|\\P\{{L\}}|[^\\\[\](){{}}*+?|^$]|\\[!-/:-@\[-`{{-~ rntfvSD]"
TIMES = r"[*+?][+?]?(?![*+?{])"
REPEAT = rf"(?:{TIMES}|\{{\d{{1,3}}(?:,\d{{0,3}})?\}}(?![*+?{{]))?"
LETTERS = r"\(\?i:(?![^)]*(?i:ss|st|ff|fl))(?:[a-hj-zA-HJ-Z'|]|\[[a-hj-zA-HJ-Z]+\])+\)"
LOOK = rf"\(\?[=!](?:(?:{ATOM}|\|){REPEAT})+\)(?![*+?{{])"
READ_ALIKE = regex.compile(rf"(?:{LOOK}|\(\?[:>]|\||(?:{LETTERS}|{ATOM}){REPEAT}|\)(?:(?<!\)\)){TIMES})?)*+")

def as_texts(source: str | Iterable[str]) -> Iterator[str]:
    "Yield the one text, or each text of a corpus; half a surrogate pair (not a character) becomes U+FFFD."
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

def compile_split(pattern: str | None) -> Callable[[str], list[str]]:
    "Return a function that cuts a text into chunks; what the pattern skips is a chunk too, so no text is lost."
    if pattern is None:
        return regex.compile(r"(?s:.+)").findall
    if not isinstance(pattern, str) or len(pattern) > LONGEST:
        raise ValueError(f"the pattern {pattern!r:.200} is not a text of up to {LONGEST:,} characters")
    if rest := pattern[READ_ALIKE.match(pattern).end():]:
        raise ValueError(f"the pattern {pattern!r:.200} has {rest!r:.20}, which other programs read in another way: "
                         r"write it with (?:...), [...], \p{L}, \p{N}, \s, (?=...), (?!...), * + ? and {1,3}")
    try:
        split, empty = regex.compile(pattern), regex.fullmatch(regex.sub(LOOK, "", pattern), "", timeout=PATIENCE)
    except (regex.error, RecursionError, TimeoutError) as error:
        raise ValueError(f"the pattern {pattern!r:.200} does not work: {error}") from None
    if empty:
        raise ValueError(f"the pattern {pattern!r:.200} matches nothing")
    if pattern in KNOWN_SPLITS:
        return split.findall
    return partial(cut_by, regex.compile(rf"(?:{pattern})|(?s:.)+?(?=(?:{pattern})|\Z)"))

def cut_by(split: regex.Pattern, text: str) -> list[str]:
    "The chunks of a text; raise ValueError if they do not add up to the text, or take too long to find."
    try:
        chunks = split.findall(text, timeout=PATIENCE + len(text) / 10_000)
    except TimeoutError:
        wrong = f"the pattern {split.pattern!r:.200} takes too long to cut {text!r:.40}"
        raise ValueError(f"{wrong}: write a simpler one, without repeats in repeats") from None
    if "".join(chunks) != text:
        raise ValueError(f"the chunks that the pattern {split.pattern!r:.200} cuts from {text!r:.40} are not that text")
    return chunks

def special_pattern(allowed: str | Iterable[str], known: Mapping[str, int]) -> "SpecialPattern":
    "A pattern that finds the allowed special tokens ('all', or a list of known ones), the longest first."
    if isinstance(allowed, str) and allowed != "all":
        raise ValueError(f"allowed_special={allowed!r} is one text; give a list of them: [{allowed!r}]")
    names = {*known} if allowed == "all" else {*as_texts(allowed)}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{unknown[0]!r} is not one of the special tokens {[*known]} of this tokenizer")
    names |= getattr(known, "plain", frozenset())
    return SpecialPattern(names, names & getattr(known, "normalized", frozenset()))

class AddedTokens(dict):
    "The ids of added tokens, with two sets of names: those found without being allowed, and those found late."

    def __init__(self, ids: Mapping[str, int], plain: Iterable[str] = (), normalized: Iterable[str] = ()):
        super().__init__(ids)
        self.plain = frozenset(plain)  # found without being allowed
        self.normalized = frozenset(normalized)  # found after the rest, in the text's Unicode form

class SpecialPattern:
    "Finds special tokens in two passes: first in the text as it is, then the `later` ones in the normalized rest."

    def __init__(self, names: set[str], later: set[str]):
        self.first, self.later = any_of(names - later), any_of(later)
        self.longest, self.has_later = max(map(len, names), default=0), bool(later)

    def split(self, text: str, form: str | None = None) -> list[str]:
        "Split a text; every second part is a special token, and the other parts are in this Unicode form."
        found = []
        for i, part in enumerate(self.first.split(text)):
            if i % 2:
                found.append(part)
            else:
                found += self.later.split(unicodedata.normalize(form, part) if form else part)
        return found

    def places(self, text: str) -> set[int]:
        "All places in the text where a cut would go through a special token."
        found = chain.from_iterable(finder.finditer(text, overlapped=True) for finder in (self.first, self.later))
        return {place for match in found for place in range(match.start() + 1, match.end())}

def any_of(names: Iterable[str]) -> regex.Pattern:
    "A pattern that finds these names, the longest first; it is a group, so that `split` keeps what it finds."
    names = sorted(names, key=lambda name: (-len(name), name))
    return regex.compile(f"({'|'.join(map(regex.escape, names)) or NOTHING})")

def last_cut(buffer: str, end: int, form: str | None, whole: set[int]) -> int:
    "The last index up to `end` where the buffer can be cut, and which is not in `whole`; 0 if there is none."
    for found in SAFE_CUT.finditer(buffer, 0, max(0, end)):
        cut = found.start()
        if cut not in whole and (form is None or unicodedata.is_normalized(form, buffer[cut - 1 : cut + 1])):
            return cut
    return 0

def pieces(
    texts: Iterable[str],
    pattern: str | None,
    special: SpecialPattern | None = None,  # finds special tokens, which stay whole
    form: str | None = None,  # a Unicode normal form that no cut may change
    size: int = 1 << 16,  # gather this many characters, then look for a place to cut
) -> Iterator[str]:
    "Join the texts and cut them again, lazily, but never through a chunk or a special token."
    can_cut = pattern in KNOWN_SPLITS and not (form and special and special.has_later)  # those are not found before
    longest = special.longest if special else 0
    buffer, enough = "", size
    for text in as_texts(texts):
        for start in range(0, len(text), size):
            buffer += text[start : start + size]
            if len(buffer) < enough or not can_cut:
                continue
            cut = last_cut(buffer, len(buffer) - longest, form, special.places(buffer) if special else set())
            if cut:
                yield buffer[:cut]
            elif len(buffer) > UNBROKEN:
                raise ValueError(f"there are more than {UNBROKEN:,} characters without the end of a word, from "
                                 f"{buffer[:20]!r} on: if that is what the text is like, use a CharTokenizer")
            buffer, enough = buffer[cut:], size if cut else 2 * len(buffer)
    if buffer:
        yield buffer

def parts(texts: Iterable[str], pattern: str | None, special: SpecialPattern,
          form: str | None) -> Iterator[tuple[str, bool]]:
    "Pairs of a piece of the texts and whether it is a special token; the other pieces in this Unicode form."
    for piece in pieces(texts, pattern, special, form):
        for i, part in enumerate(special.split(piece, form)):
            yield part, i % 2 == 1

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
    """How often each distinct chunk occurs in all texts, counted on all cores.

    A chunk of more than 1,000 characters (such as DNA, or a line of hyphens) is counted as several shorter ones,
    because each merge would go through all of it again."""
    split, counts = compile_split(pattern), Counter()
    cut = chain.from_iterable(pieces([text], pattern, size=BATCH) for text in as_texts(texts))
    def count(batch: list[str]) -> Counter:
        counted = Counter(chain.from_iterable(map(split, batch)))
        for chunk in [chunk for chunk in counted if len(chunk) > LONG_CHUNK]:
            times = counted.pop(chunk)
            for start in range(0, len(chunk), LONG_CHUNK):
                counted[chunk[start : start + LONG_CHUNK]] += times
        return counted
    counted_batches = on_all_cores(count, batches(cut, BATCH), enough=2)
    for counted in tqdm(counted_batches, "counting", unit="MB", unit_scale=BATCH / 1e6, delay=2, disable=None):
        counts.update(counted)
    return counts
