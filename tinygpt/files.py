"""Files: written whole or not at all, and tokenizers in the form that the Hugging Face libraries read."""
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import regex

_printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
_others = [byte for byte in range(256) if byte not in _printable]
# How files write each byte: as itself where it prints, otherwise as a letter from further up. The order is GPT-2's.
LETTERS = dict(zip(_printable + _others, map(chr, _printable + [*range(256, 324)])))
BYTE_OF = {letter: byte for byte, letter in LETTERS.items()}


def as_texts(source: str | Iterable[str]) -> Iterator[str]:
    "Yield the one text, or each text of a corpus; half a surrogate pair, which is no character, becomes U+FFFD."
    for text in [source] if isinstance(source, str | bytes) else source:
        if not isinstance(text, str):
            raise ValueError(f"expected text (str), got {type(text).__name__}: {text!r:.40}")
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        yield text


def write_json(path: Path, content: dict):
    "Write a file whole or not at all."
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def read_json(path: str | Path, understand: Callable):
    "Read a file and make sense of it, or say what is wrong with it."
    try:
        return understand(json.loads(Path(path).read_bytes()))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError, regex.error) as error:
        reason = error if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise ValueError(f"{path} is damaged, or of another kind than expected: {reason}") from error


def write_tokenizer(folder: Path, spec: dict):
    "Write a tokenizer.json, and the tokenizer_config.json without which transformers takes another class."
    write_json(folder / "tokenizer.json", spec)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_json(folder / "tokenizer_config.json", config)


def hf_json(model: dict, pre_tokenizer: dict, decoder: dict, added_tokens: Iterable[dict] = (),
            normalizer: dict | None = None) -> dict:
    "The parts of a tokenizer.json."
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added_tokens),
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": decoder,
            "model": model}


def in_order(vocab: dict[str, int]) -> list[str]:
    "The words of a vocabulary by id, if the ids are 0, 1, 2, ..."
    words = sorted(vocab, key=vocab.get)
    if [vocab[word] for word in words] != list(range(len(words))):
        raise ValueError(f"the ids of its {len(words)} tokens are not 0 to {len(words) - 1}, each once")
    return words


def chars_to_json(ids: dict[str, int]) -> dict:
    "Characters as a tokenizer.json."
    split = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    return hf_json({"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"}, split, decoder={"type": "Fuse"})


def chars_from_json(spec: dict) -> list[str]:
    "The characters in a tokenizer.json."
    if spec["model"].get("type") != "WordLevel" or any(len(word) != 1 for word in spec["model"]["vocab"]):
        raise ValueError("its tokens are not single characters; a file of byte pairs is read by BPETokenizer.load")
    return in_order(spec["model"]["vocab"])


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
        model={"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
               "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
               "vocab": {word: i for i, word in enumerate(tok.words)},
               "merges": [[tok.words[left], tok.words[right]] for left, right in tok.merges]},
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


def read_split(pre: dict, implied_split: str) -> str | None:
    "The pattern in a pre-tokenizer: one split, then bytes."
    *splits, byte_level = pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]
    own_split = byte_level.get("use_regex", True)
    if byte_level["type"] != "ByteLevel" or byte_level.get("add_prefix_space") or len(splits) + own_split > 1:
        raise ValueError(f"its pre-tokenizer is not one split followed by bytes without a prefix space: {json.dumps(pre):.200}")
    if not splits:
        return implied_split if own_split else None
    if splits[0]["type"] != "Split" or splits[0]["behavior"] != "Isolated" or splits[0].get("invert"):
        raise ValueError(f"its pre-tokenizer does more than to isolate chunks by a pattern: {json.dumps(pre):.200}")
    return splits[0]["pattern"]["Regex"]


def bpe_from_json(spec: dict, implied_split: str) -> tuple:
    "The tokens, merges, special tokens, pattern and normalizer in a tokenizer.json."
    model, added, normalizer = spec["model"], spec.get("added_tokens") or [], spec.get("normalizer") or {"type": None}
    if model.get("type", "BPE") != "BPE":
        raise ValueError(f"its model is {model['type']}, not BPE")
    refuse("model", model, "type", "vocab", "merges", "unk_token", "fuse_unk")
    for token in added:
        refuse(f"token {token['content']!r}", token, "id", "content", "special", "normalized")
    if (post := spec.get("post_processor")) and post["type"] != "ByteLevel":
        raise ValueError(f"its post-processor {post['type']} may add tokens to a text, which this tokenizer does not do")
    if normalizer["type"] not in (None, "NFC", "NFD", "NFKC", "NFKD"):
        raise ValueError(f"its normalizer is {normalizer['type']}; only Unicode's own forms, such as NFC, are known here")
    special = {token["content"]: token["id"] for token in added}
    vocab = model["vocab"] | special
    merges, used = [], set()
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        if left + right not in vocab or left not in vocab or right not in vocab:
            raise ValueError(f"its merge of {left!r} and {right!r} needs a token that the vocabulary lacks")
        if left + right in used:
            raise ValueError(f"{left + right!r} is merged only after it was used; no training makes such a list")
        merges.append((vocab[left], vocab[right]))
        used |= {left, right}
    tokens = [word.encode() if word in special else unspell(word) for word in in_order(vocab)]
    return tokens, merges, special, read_split(spec["pre_tokenizer"], implied_split), normalizer["type"]


def read_gpt2(encoder_json: str | Path, vocab_bpe: str | Path) -> dict:
    "GPT-2's two files as one tokenizer.json."
    merges, end = Path(vocab_bpe).read_text(encoding="utf-8").split("\n")[1:-1], "<|endoftext|>"

    def understand(vocab: dict[str, int]) -> dict:
        if len(vocab) != 256 + len(merges) + 1:
            raise ValueError(f"its {len(vocab)} tokens do not go with the {len(merges)} merges of {vocab_bpe}: one is cut short")
        model = {"vocab": vocab, "merges": merges}
        return hf_json(model, {"type": "ByteLevel"}, {"type": "ByteLevel"}, [{"id": vocab[end], "content": end}])

    return read_json(encoder_json, understand)
