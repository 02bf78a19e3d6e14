"""Files: written whole or not at all, and tokenizers in the form that the Hugging Face libraries read."""
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import regex

HF_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}


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
    "The words, merges, special tokens, pattern and normalizer in a tokenizer.json."
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
    return in_order(vocab), merges, special, read_split(spec["pre_tokenizer"], implied_split), normalizer["type"]


def gpt2_to_json(vocab: dict[str, int], vocab_bpe: str | Path) -> dict:
    "GPT-2's two files as one tokenizer.json."
    merges, end = Path(vocab_bpe).read_text(encoding="utf-8").split("\n")[1:-1], "<|endoftext|>"
    if len(vocab) != 256 + len(merges) + 1:
        raise ValueError(f"{len(vocab)} tokens do not go with the {len(merges)} merges of {vocab_bpe}: one file is cut short")
    return hf_json({"vocab": vocab, "merges": merges}, pre_tokenizer={"type": "ByteLevel"}, decoder={"type": "ByteLevel"},
                   added_tokens=[{"id": vocab[end], "content": end}])
