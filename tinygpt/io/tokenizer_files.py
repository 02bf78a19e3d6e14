"""Tokenizers as the Hugging Face libraries write them, and GPT-2's as OpenAI published it."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
import regex
from tinygpt.engine.splitting import GPT2_SPLIT
from tinygpt.io.atomic import write_json
from tinygpt.io.reading import read_json, readable_errors

_printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
_others = [byte for byte in range(256) if byte not in _printable]

# How files write each byte: as itself where it prints, otherwise as a letter from 256 on. The order is GPT-2's.
LETTERS = dict(zip(_printable + _others, map(chr, _printable + [*range(256, 324)])))
BYTE_OF = {letter: byte for byte, letter in LETTERS.items()}

# The parts of a tokenizer.json, in the order in which they are written.
PARTS = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
         "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": None}

def to_json(tok) -> dict:
    "The content of tokenizer.json for this tokenizer."
    return bpe_json(tok) if tok.model_type == "BPE" else chars_json(tok.ids)

def from_json(cls: type, spec: dict):
    "The tokenizer of class `cls` that the content of a tokenizer.json describes."
    model = spec["model"] if isinstance(spec.get("model"), dict) else {}
    if not isinstance(model.get("vocab"), dict) or model.get("type", "BPE") != cls.model_type:
        raise ValueError(f"it does not hold a {cls.model_type} vocabulary ({cls.__name__} reads no other), "
                         f"but {model.get('type', 'no known one')}")
    check_settings("file", {name: spec.get(name) for name in ("truncation", "padding")})
    return cls(*(read_bpe if cls.model_type == "BPE" else read_chars)(spec))

def save(tok, folder: str | Path):
    "Write tokenizer.json, and the tokenizer_config.json without which transformers takes another class."
    write_json(Path(folder) / "tokenizer.json", to_json(tok))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_json(Path(folder) / "tokenizer_config.json", config)

def load(cls: type, folder: str | Path):
    "The tokenizer of class `cls` in the tokenizer.json of a folder."
    return read_json(Path(folder) / "tokenizer.json", lambda spec: from_json(cls, spec))

def load_gpt2(cls: type, encoder_json: str | Path, vocab_bpe: str | Path):
    "GPT-2's tokenizer, from the two files in which it was published."
    with readable_errors(vocab_bpe):
        merges = Path(vocab_bpe).read_text(encoding="utf-8").rstrip("\n").split("\n")[1:]
        if wrong := [line for line in merges if line.count(" ") != 1]:
            raise ValueError(f"the line {wrong[0]!r:.60} is not a pair")
    def combine(vocab: dict[str, int]):
        if len(vocab) != 256 + len(merges) + 1:
            raise ValueError(f"its {len(vocab)} tokens do not go with the {len(merges)} merges of {vocab_bpe}")
        added = [{"id": vocab["<|endoftext|>"], "content": "<|endoftext|>"}]
        model = {"vocab": vocab, "merges": merges}
        return from_json(cls, PARTS | {"added_tokens": added, "pre_tokenizer": {"type": "ByteLevel"}, "model": model})
    return read_json(encoder_json, combine)

def words_by_id(vocab: dict[str, int]) -> list[str]:
    "The words of a vocabulary by id, if the ids are 0, 1, 2, ..."
    ids = list(vocab.values())
    if any(type(i) is not int for i in ids) or sorted(ids) != list(range(len(ids))):
        raise ValueError(f"the ids of its {len(ids)} tokens are not 0 to {len(ids) - 1}, each once")
    return sorted(vocab, key=vocab.get)

def chars_json(ids: dict[str, int]) -> dict:
    "A vocabulary of characters as a tokenizer.json."
    split = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    model = {"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"}
    return PARTS | {"pre_tokenizer": split, "decoder": {"type": "Fuse"}, "model": model}

def read_chars(spec: dict) -> tuple:
    "The argument of a CharTokenizer from a tokenizer.json: its characters."
    ours, vocab = chars_json({}), spec["model"]["vocab"]
    if different := [part for part in ours if part != "model" and spec.get(part) != ours[part]]:
        raise ValueError(f"its {different[0]} is not that of a tokenizer of characters: it would give other ids")
    if any(len(word) != 1 for word in vocab):
        raise ValueError("its tokens are not single characters")
    return (words_by_id(vocab),)

def spell(tokens: list[bytes], special_ids: Iterable[int]) -> list[str]:
    "The tokens as files write them: a letter for each byte, and special tokens as they are."
    words = [token.decode("latin1").translate(LETTERS) for token in tokens]
    for i in special_ids:
        words[i] = tokens[i].decode()
    word, times = Counter(words).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{word!r} is a special token and an ordinary one as well; rename the special token")
    return words

def unspell(word: str) -> bytes:
    "The bytes of an ordinary token, from its letters."
    if unknown := [letter for letter in word if letter not in BYTE_OF]:
        raise ValueError(f"{unknown[0]!r} in its token {word!r} is not a letter that stands for a byte")
    return bytes(BYTE_OF[letter] for letter in word)

def bpe_json(tok) -> dict:
    "A BPETokenizer as a tokenizer.json."
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": tok.pattern}, "behavior": "Isolated", "invert": False}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": i, "content": name, **plain, "special": True} for name, i in tok.special_tokens.items()]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {word: i for i, word in enumerate(tok.words)},
             "merges": [[tok.words[left], tok.words[right]] for left, right in tok.merges]}
    steps = {"type": "Sequence", "pretokenizers": [split, byte_level]} if tok.pattern else byte_level
    normalizer = {"type": tok.normalizer} if tok.normalizer else None
    return PARTS | {"added_tokens": added, "normalizer": normalizer, "pre_tokenizer": steps, "decoder": byte_level,
                    "model": model}

def check_settings(part: str, settings: dict, *harmless: str):
    "Raise ValueError for a setting that would change ids in a way that is not supported here."
    for name, value in settings.items():
        if name not in harmless and value not in (None, False, "", 0):
            raise ValueError(f"its {part} asks for {name}={value!r:.60}, which this tokenizer does not do")

def read_split(pre: dict | None) -> str | None:
    "The split pattern in a pre-tokenizer: one split, then bytes; a ByteLevel that splits by itself does so as GPT-2."
    steps = (pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]) if pre else []
    if not steps or steps[-1]["type"] != "ByteLevel":
        raise ValueError("its pre-tokenizer does not end in ByteLevel: its tokens are not made of bytes")
    *splits, byte_level = steps
    isolate = [split["type"] == "Split" and split["behavior"] == "Isolated" and not split.get("invert")
               and "Regex" in split["pattern"] for split in splits]
    patterns = [GPT2_SPLIT] if byte_level.get("use_regex", True) else []
    if byte_level.get("add_prefix_space") or len(splits + patterns) > 1 or not all(isolate):
        raise ValueError("its pre-tokenizer does more than to isolate chunks by one pattern, with no prefix space: "
                         f"{json.dumps(pre):.200}")
    if not splits:
        return patterns[0] if patterns else None
    pattern = splits[0]["pattern"]["Regex"]
    if different := regex.search(r"\\[hHGKRX]|&&|\[[^\]]*\[|\(\?[xR]", pattern):
        raise ValueError(f"its pattern {pattern!r} has {different[0]!r}, which other programs read in another way")
    return pattern

def read_merges(pairs: list, vocab: dict[str, int]) -> tuple[list[tuple[int, int]], set[str]]:
    "The merges as pairs of ids, in order, and all words that they can make."
    merges, used, made = [], set(), set(LETTERS.values())
    for pair in pairs if isinstance(pairs, list) else [()]:
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        if left + right not in vocab or left not in vocab or right not in vocab:
            raise ValueError(f"its merge of {left!r} and {right!r} needs a token that the vocabulary lacks")
        if left + right in used:
            raise ValueError(f"{left + right!r} is merged only after it was used; no training makes such a list")
        merges.append((vocab[left], vocab[right]))
        used |= {left, right}
        made.add(left + right)
    return merges, made

def read_bpe(spec: dict) -> tuple:
    "The arguments of a BPETokenizer from a tokenizer.json: tokens, merges, special tokens, pattern, normalizer."
    model, added, post = spec["model"], spec.get("added_tokens") or [], spec.get("post_processor")
    check_settings("model", model, "type", "vocab", "merges", "unk_token", "fuse_unk")
    if post and post["type"] != "ByteLevel":
        raise ValueError(f"its post-processor {post['type']} may add tokens, which this tokenizer does not do")
    normalizer = spec["normalizer"]["type"] if spec.get("normalizer") else None
    if normalizer not in (None, "NFC", "NFD", "NFKC", "NFKD"):
        raise ValueError(f"its normalizer is {normalizer}; only Unicode's own forms, such as NFC, are known here")
    special = {token["content"]: token["id"] for token in added}
    vocab = model["vocab"] | special
    merges, made = read_merges(model["merges"], vocab)
    for token in added:  # which the library must find in the same places as a BPETokenizer
        content = token["content"]
        check_settings(f"token {content!r}", token, "id", "content", "special", "normalized")
        if content == "" or content in made:
            raise ValueError(f"its added token {content!r} is {'an ordinary token as well' if content else 'empty'}")
    if len({bool(token.get("normalized")) for token in added} | ({False} if normalizer else set())) > 1:
        raise ValueError("some added tokens are looked for in the text as it is, others after it was normalized")
    tokens = [word.encode() if word in special else unspell(word) for word in words_by_id(vocab)]
    return tokens, merges, special, read_split(spec.get("pre_tokenizer")), normalizer
