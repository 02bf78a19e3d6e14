"""Tokenizers as the Hugging Face libraries write them."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import regex

from tinygpt.io.atomic import read_json, write_json

_printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
_others = [byte for byte in range(256) if byte not in _printable]


# How files write each byte: as itself where it prints, otherwise as a letter from further up. The order is GPT-2's.
LETTERS = dict(zip(_printable + _others, map(chr, _printable + [*range(256, 324)])))


BYTE_OF = {letter: byte for byte, letter in LETTERS.items()}

def write_tokenizer(folder: Path, spec: dict):
    "Write a tokenizer.json, and the tokenizer_config.json without which transformers takes another class."
    write_json(folder / "tokenizer.json", spec)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_json(folder / "tokenizer_config.json", config)


def hf_json(
    model: dict, pre_tokenizer: dict, decoder: dict, added_tokens: Iterable[dict] = (), normalizer: dict | None = None
) -> dict:
    "The parts of a tokenizer.json."
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(added_tokens),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def words_by_id(vocab: dict[str, int]) -> list[str]:
    "The words of a vocabulary by id, if the ids are 0, 1, 2, ..."
    ids = list(vocab.values())
    if any(type(i) is not int for i in ids) or sorted(ids) != list(range(len(ids))):
        raise ValueError(f"the ids of its {len(ids)} tokens are not 0 to {len(ids) - 1}, each once")
    return sorted(vocab, key=vocab.get)


def model_of(spec: dict, kind: str) -> dict:
    "The model in a tokenizer.json, if it is of this kind and nothing is done to its ids afterwards."
    model = spec["model"] if isinstance(spec, dict) and isinstance(spec.get("model"), dict) else {"vocab": None}
    if not isinstance(model.get("vocab"), dict) or model.get("type", "BPE") != kind:
        raise ValueError(
            f"it does not hold a {kind} vocabulary ({'BPETokenizer' if kind == 'BPE' else 'CharTokenizer'} reads "
            f"no other), but {model.get('type', 'none that is known')}"
        )
    refuse("file", {name: spec.get(name) for name in ("truncation", "padding")})
    return model


def chars_to_json(ids: dict[str, int]) -> dict:
    "Characters as a tokenizer.json."
    split = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    return hf_json({"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"}, split, decoder={"type": "Fuse"})


def chars_from_json(spec: dict) -> list[str]:
    "The characters in a tokenizer.json."
    vocab = model_of(spec, "WordLevel")["vocab"]
    ours = chars_to_json({})
    if different := [part for part in ours if part != "model" and spec.get(part) != ours[part]]:
        raise ValueError(
            f"its {different[0]} is not that of a tokenizer of characters, so that it would give other ids"
        )
    if any(len(word) != 1 for word in vocab):
        raise ValueError("its tokens are not single characters")
    return words_by_id(vocab)


def spell(tokens: list[bytes], special_ids: Iterable[int]) -> list[str]:
    "The tokens as files write them: in letters, and special tokens as they are."
    words = [token.decode("latin1").translate(LETTERS) for token in tokens]
    for i in special_ids:
        words[i] = tokens[i].decode()
    word, times = Counter(words).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{word!r} is a special token and an ordinary one as well; rename the special token")
    return words


def unspell(word: str) -> bytes:
    "The bytes of an ordinary token, from its letters."
    if alien := [letter for letter in word if letter not in BYTE_OF]:
        raise ValueError(f"{alien[0]!r} in its token {word!r} is not a letter that stands for a byte")
    return bytes(BYTE_OF[letter] for letter in word)


def bpe_to_json(tok) -> dict:
    "Byte pairs as a tokenizer.json."
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": tok.pattern}, "behavior": "Isolated", "invert": False}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return hf_json(
        model={
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {word: i for i, word in enumerate(tok.words)},
            "merges": [[tok.words[left], tok.words[right]] for left, right in tok.merges],
        },
        pre_tokenizer={"type": "Sequence", "pretokenizers": [split, byte_level]} if tok.pattern else byte_level,
        decoder=byte_level,
        added_tokens=[{"id": i, "content": name, **plain, "special": True} for name, i in tok.special_tokens.items()],
        normalizer={"type": tok.normalizer} if tok.normalizer else None,
    )


def refuse(part: str, settings: dict, *harmless: str):
    "Refuse settings that would change ids in a way that we do not follow."
    for name, value in settings.items():
        if name not in harmless and value not in (None, False, "", 0):
            raise ValueError(f"its {part} asks for {name}={value!r:.60}, which this tokenizer does not do")


def read_split(pre: dict | None, implied_split: str) -> str | None:
    "The pattern in a pre-tokenizer: one split, then bytes."
    parts = (pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]) if pre else []
    if not parts or parts[-1]["type"] != "ByteLevel":
        raise ValueError("its pre-tokenizer does not end in ByteLevel: its tokens are not made of bytes")
    *splits, byte_level = parts
    own_split = byte_level.get("use_regex", True)
    if byte_level.get("add_prefix_space") or len(splits) + bool(own_split) > 1:
        raise ValueError(
            f"its pre-tokenizer does more than one split, then bytes without a prefix space: {json.dumps(pre):.200}"
        )
    if not splits:
        return implied_split if own_split else None
    split = splits[0]
    if (
        split["type"] != "Split"
        or split["behavior"] != "Isolated"
        or split.get("invert")
        or "Regex" not in split["pattern"]
    ):
        raise ValueError(f"its pre-tokenizer does more than to isolate chunks by a pattern: {json.dumps(pre):.200}")
    if read_otherwise := regex.search(r"\\[hHGKRX]|&&|\[[^\]]*\[|\(\?[xR]", pattern := split["pattern"]["Regex"]):
        raise ValueError(f"its pattern {pattern!r} has {read_otherwise[0]!r}, which other programs read in another way")
    return pattern


def check_added(added: list[dict], ordinary: set[str], normalizer: str | None):
    "Refuse added tokens that would be found in other places, or would change other tokens, than in the library."
    for token in added:
        content = token["content"]
        refuse(f"token {content!r}", token, "id", "content", "special", "normalized")
        if content == "" or content in ordinary:
            raise ValueError(f"its added token {content!r} is {'an ordinary token as well' if content else 'empty'}")
    if len({bool(token.get("normalized")) for token in added} | ({False} if normalizer else set())) > 1:
        raise ValueError(
            "some of its added tokens are looked for in the text as it is, and some after it was normalized"
        )


def bpe_from_json(spec: dict, implied_split: str) -> tuple:
    "The tokens, merges, special tokens, pattern and normalizer in a tokenizer.json."
    model = model_of(spec, "BPE")
    refuse("model", model, "type", "vocab", "merges", "unk_token", "fuse_unk")
    if (post := spec.get("post_processor")) and post["type"] != "ByteLevel":
        raise ValueError(
            f"its post-processor {post['type']} may add tokens to a text, which this tokenizer does not do"
        )
    normalizer = spec["normalizer"]["type"] if spec.get("normalizer") else None
    if normalizer not in (None, "NFC", "NFD", "NFKC", "NFKD"):
        raise ValueError(f"its normalizer is {normalizer}; only Unicode's own forms, such as NFC, are known here")
    added = spec.get("added_tokens") or []
    special = {token["content"]: token["id"] for token in added}
    vocab, merges, used, made = model["vocab"] | special, [], set(), set(LETTERS.values())
    for merge in model["merges"] if isinstance(model["merges"], list) else [()]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        if left + right not in vocab or left not in vocab or right not in vocab:
            raise ValueError(f"its merge of {left!r} and {right!r} needs a token that the vocabulary lacks")
        if left + right in used:
            raise ValueError(f"{left + right!r} is merged only after it was used; no training makes such a list")
        merges.append((vocab[left], vocab[right]))
        used |= {left, right}
        made.add(left + right)
    check_added(added, made, normalizer)
    tokens = [word.encode() if word in special else unspell(word) for word in words_by_id(vocab)]
    return tokens, merges, special, read_split(spec.get("pre_tokenizer"), implied_split), normalizer


def read_gpt2(encoder_json: str | Path, vocab_bpe: str | Path, understand: Callable):
    "GPT-2's two files, made sense of as one tokenizer.json."
    try:
        merges = Path(vocab_bpe).read_text(encoding="utf-8").rstrip("\n").split("\n")[1:]
        if wrong := [line for line in merges if line.count(" ") != 1]:
            raise ValueError(f"the line {wrong[0]!r:.60} is not a pair")
    except ValueError as error:
        raise ValueError(f"{vocab_bpe} is damaged, or of another kind than expected: {error}") from error

    def both(vocab: dict[str, int]):
        if len(vocab) != 256 + len(merges) + 1:
            raise ValueError(f"its {len(vocab)} tokens do not go with the {len(merges)} merges of {vocab_bpe}")
        end, byte_level = "<|endoftext|>", {"type": "ByteLevel"}
        return understand(
            hf_json({"vocab": vocab, "merges": merges}, byte_level, byte_level, [{"id": vocab[end], "content": end}])
        )

    return read_json(encoder_json, both)
