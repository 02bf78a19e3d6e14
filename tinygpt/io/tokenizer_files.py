"""Tokenizers as the Hugging Face libraries write them, and GPT-2's as OpenAI published it."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tinygpt.engine.splitting import GPT2_SPLIT, KNOWN_SPLITS, AddedTokens
from tinygpt.io.atomic import checksum, write_json
from tinygpt.io.reading import read_bytes, read_json, readable_errors

_printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
_others = [byte for byte in range(256) if byte not in _printable]

# How files write each byte: as itself if it is printable, otherwise as a letter from 256 on. The order is GPT-2's.
LETTERS = dict(zip(_printable + _others, map(chr, _printable + [*range(256, 324)])))
BYTE_OF = {letter: byte for byte, letter in LETTERS.items()}

# The parts of a tokenizer.json, in the order in which they are written.
PARTS = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
         "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": None}
# What transformers' apply_chat_template makes of messages: the ids of tinygpt.chat.encode_chat.
CHAT_TEMPLATE = ("{% for message in messages %}"
                 "{{ '<|' + message['role'] + '|> ' + message['content'] | trim }}"
                 "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
                 "{% endfor %}"
                 "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}")
MOST_IDS = 0x110000  # a BPETokenizer has a character for each
MOST_ADDED = 10_000  # added tokens: looking for more of them in a text takes too long

def to_json(tok) -> dict:
    "The content of tokenizer.json for this tokenizer."
    return bpe_json(tok) if tok.model_type == "BPE" else chars_json(tok.ids)

def from_json(cls: type, spec: dict):
    "The tokenizer of class `cls` that the content of a tokenizer.json describes."
    model = spec["model"] if isinstance(spec.get("model"), dict) else {}
    if not isinstance(model.get("vocab"), dict) or model.get("type", "BPE") != cls.model_type:
        raise ValueError(f"it does not hold a {cls.model_type} vocabulary ({cls.__name__} reads no other), "
                         f"but {model.get('type', 'no known one')}")
    tok = cls(*(read_bpe if cls.model_type == "BPE" else read_chars)(spec))
    if model.get("ignore_merges") and (word := unreachable(tok)):
        raise ValueError(f"it asks for ignore_merges, and its merges do not make {word!r:.60}: it would give other ids")
    return tok

def config_json(content: dict) -> dict:
    "The content of tokenizer_config.json: the class that transformers should use, the chat template, and a checksum."
    names = {token["content"] for token in content.get("added_tokens", ())}
    template = {"chat_template": CHAT_TEMPLATE} if {"<|user|>", "<|assistant|>", "<|end|>"} <= names else {}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **template,
            "crc32": checksum(content)}

def save(tok, folder: str | Path):
    "Write tokenizer.json and tokenizer_config.json."
    path, content = Path(folder) / "tokenizer_config.json", to_json(tok)
    with suppress(OSError, ValueError):
        if read_json(path) != config_json(content):
            path.unlink()  # it would not go with the new tokenizer, if saving is interrupted
    write_json(path.with_name("tokenizer.json"), content)
    write_json(path, config_json(content))

def kept_checksum(folder: str | Path) -> str | None:
    "The checksum in the tokenizer_config.json of a folder; None if `save` did not write that file as it is."
    with suppress(OSError, ValueError):
        config = read_json(Path(folder) / "tokenizer_config.json")
        return config["crc32"] if config.keys() - {"chat_template"} == config_json({}).keys() else None

def load(cls: type, folder: str | Path, *others: type):
    "Load the tokenizer.json of a folder, with this class, or with one of the others if that has its model type."
    path = Path(folder) / "tokenizer.json"
    def convert(spec: dict):
        return from_json(next((other for other in others if other.model_type == spec["model"].get("type")), cls), spec)
    tok = read_json(path, convert)
    if kept_checksum(folder) not in (None, checksum(to_json(tok))):
        raise ValueError(f"{path} is damaged, or was changed since tinygpt wrote it: get both it and "
                         "tokenizer_config.json again, or remove the latter if the change is meant")
    return tok

def load_gpt2(cls: type, encoder_json: str | Path, vocab_bpe: str | Path):
    "GPT-2's tokenizer, from the two files in which it was published."
    with readable_errors(vocab_bpe):
        merges = read_bytes(vocab_bpe).decode().rstrip("\n").split("\n")[1:]
        if wrong := [line for line in merges if line.count(" ") != 1]:
            raise ValueError(f"the line {wrong[0]!r:.60} is not a pair")
    def combine(vocab: dict[str, int]):
        if len(vocab) != 256 + len(merges) + 1:
            raise ValueError(f"its {len(vocab)} tokens do not match the {len(merges)} merges of {vocab_bpe}")
        added = [{"id": vocab["<|endoftext|>"], "content": "<|endoftext|>"}]
        model = {"vocab": vocab, "merges": merges}
        return from_json(cls, PARTS | {"added_tokens": added, "pre_tokenizer": {"type": "ByteLevel"}, "model": model})
    return read_json(encoder_json, combine)

def words_by_id(vocab: dict[str, int]) -> list[str | None]:
    "The words of a vocabulary by id; None for an id that no word has."
    ids = list(vocab.values())
    if any(type(i) is not int or not 0 <= i < MOST_IDS for i in ids) or len(set(ids)) < len(ids):
        raise ValueError(f"the ids of its {len(ids)} tokens are not whole numbers below {MOST_IDS:,}, each once")
    words = [None] * (max(ids, default=-1) + 1)
    for word, i in vocab.items():
        words[i] = word
    return words

def unreachable(tok) -> str | None:
    "A word of a BPETokenizer that its merges cannot build from its bytes; None if there is no such word."
    for i, word in enumerate(tok.words):
        text = "" if word is None or i in tok.special_tokens.values() else tok.tokens[i].decode(errors="ignore")
        if text and text.encode() == tok.tokens[i] and tok.chunk_ids(text) != [i]:
            return text
    return None

def chars_json(ids: dict[str, int]) -> dict:
    "A vocabulary of characters as a tokenizer.json."
    split = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    model = {"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"}
    return PARTS | {"pre_tokenizer": split, "decoder": {"type": "Fuse"}, "model": model}

def steps(part: dict | None, kind: str) -> list[dict]:
    "The steps of a part, which may be missing, a single step, or a Sequence that lists its steps under `kind`."
    if part and part["type"] == "Sequence":
        return [step for inner in part[kind] for step in steps(inner, kind)]
    return [part] if part else []

def check_post_processor(post: dict | None):
    "Raise ValueError for a post-processor that may add tokens."
    for step in steps(post, "processors"):
        only_text = step["type"] == "TemplateProcessing" and [[*piece] for piece in step["single"]] == [["Sequence"]]
        if step["type"] != "ByteLevel" and not only_text:
            raise ValueError(f"its post-processor {step['type']} may add tokens, which this tokenizer does not support")

def read_chars(spec: dict) -> tuple:
    "The argument of a CharTokenizer from a tokenizer.json: its characters."
    ours, words = chars_json({}), words_by_id(spec["model"]["vocab"])
    check_post_processor(spec.get("post_processor"))
    if spec.get("added_tokens"):
        raise ValueError("it has added_tokens, which a tokenizer of characters does not look for")
    for part, kind in {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}.items():
        if steps(spec.get(part), kind) != steps(ours[part], kind):
            raise ValueError(f"its {part} is not that of a tokenizer of characters: it would give other ids")
    if any(word is None or len(word) != 1 for word in words):
        raise ValueError("its tokens are not single characters, with ids from 0 on")
    return (words,)

def spell(tokens: list[bytes], special_ids: Iterable[int]) -> list[str]:
    "The tokens as files write them: a letter for each byte, and special tokens as they are."
    words = [token if token is None else token.decode("latin1").translate(LETTERS) for token in tokens]
    for i in special_ids:
        words[i] = tokens[i].decode()
    for word, times in Counter(filter(None, words)).most_common(1):
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
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    plain, normalized = (getattr(tok.special_tokens, kind, ()) for kind in ("plain", "normalized"))
    added = [{"id": i, "content": name, **flags, "normalized": name in normalized, "special": name not in plain}
             for name, i in tok.special_tokens.items()]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {word: i for i, word in enumerate(tok.words) if word is not None},
             "merges": [[tok.words[left], tok.words[right]] for left, right in tok.merges]}
    steps = {"type": "Sequence", "pretokenizers": [split, byte_level]} if tok.pattern else byte_level
    normalizer = {"type": tok.normalizer} if tok.normalizer else None
    return PARTS | {"added_tokens": added, "normalizer": normalizer, "pre_tokenizer": steps, "decoder": byte_level,
                    "model": model}

def check_settings(part: str, settings: dict, *harmless: str):
    "Raise ValueError for a setting that would change ids in a way that is not supported here."
    for name, value in settings.items():
        if name not in harmless and value not in (None, False, "", 0):
            raise ValueError(f"its {part} asks for {name}={value!r:.60}, which this tokenizer does not support")

def read_split(pre: dict | None) -> str | None:
    "The split pattern of a pre-tokenizer (one split, then bytes); a ByteLevel that splits uses GPT-2's pattern."
    *splits, last = steps(pre, "pretokenizers") or [{"type": "nothing"}]
    if last["type"] != "ByteLevel":
        raise ValueError("its pre-tokenizer does not end in ByteLevel: its tokens are not made of bytes")
    patterns = [GPT2_SPLIT] if last.get("use_regex", True) else []
    for split in splits:
        pattern = split["pattern"].get("Regex") if split["type"] == "Split" else None
        isolated = split.get("behavior") == "Isolated" and not split.get("invert")
        kept = split.get("behavior") == "Removed" and split.get("invert") and pattern in KNOWN_SPLITS  # all is matched
        patterns.append(pattern if isolated or kept else None)
    if last.get("add_prefix_space") or len(patterns) > 1 or None in patterns:
        raise ValueError("its pre-tokenizer does more than isolate chunks by one pattern without a prefix space: "
                         f"{json.dumps(pre):.200}")
    return patterns[0] if patterns else None

def read_merges(pairs: list, vocab: dict[str, int]) -> tuple[list[tuple[int, int]], set[str]]:
    "The merges as pairs of ids, in order, and all words that they can make."
    merges, used, made = [], set(), set(LETTERS.values())
    for pair in pairs if isinstance(pairs, list) else [()]:
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        if left + right not in vocab or left not in vocab or right not in vocab:
            raise ValueError(f"its merge of {left!r} and {right!r} needs a token that the vocabulary lacks")
        if left + right in used:
            raise ValueError(f"{left + right!r} is used by a merge before the merge that makes it; no training makes "
                             "such a list")
        merges.append((vocab[left], vocab[right]))
        used |= {left, right}
        made.add(left + right)
    return merges, made

def read_added(added: list[dict], vocab: dict[str, int], made: set[str], form: str | None) -> AddedTokens:
    "The added tokens; raise ValueError if the library would give them other ids, or find them in other places."
    if len(added) > MOST_ADDED:
        raise ValueError(f"it has {len(added):,} added tokens, but at most {MOST_ADDED:,} are supported")
    ids, free = {}, len(vocab)
    for token in added:
        content, id = token["content"], vocab.get(token["content"], free)
        check_settings(f"token {content!r}", token, "id", "content", "special", "normalized")
        if content == "" or content in made or content in ids:
            raise ValueError(f"its added token {content!r} is {'an ordinary token as well' if content else 'empty'}")
        if token["id"] != id:
            raise ValueError(f"its added token {content!r} has the id {token['id']!r}, and the library gives it {id}")
        if token.get("normalized") and form and unicodedata.normalize(form, content) != content:
            raise ValueError(f"its added token {content!r} is not in the Unicode form {form}, to which texts are "
                             "normalized, so it would never be found")
        ids[content], free = id, max(free, id + 1)
    normalized = {token["content"] for token in added if token.get("normalized")}
    if not form and len(normalized) == len(ids):  # all are found at the same time, in the text as it is
        normalized = set()
    return AddedTokens(ids, {token["content"] for token in added if not token.get("special", True)}, normalized)

def read_bpe(spec: dict) -> tuple:
    "The arguments of a BPETokenizer from a tokenizer.json: tokens, merges, added tokens, pattern, normalizer."
    model, added = spec["model"], spec.get("added_tokens") or []
    ordinary = model["vocab"]
    harmless = ["byte_fallback"] if BYTE_OF.keys() <= ordinary.keys() else []  # where every byte has a token
    check_settings("model", model, "type", "vocab", "merges", "unk_token", "fuse_unk", "ignore_merges", *harmless)
    check_post_processor(spec.get("post_processor"))
    normalizers = [step["type"] for step in steps(spec.get("normalizer"), "normalizers")]
    if normalizers not in ([], ["NFC"], ["NFD"], ["NFKC"], ["NFKD"]):
        raise ValueError(f"its normalizer is {' and '.join(normalizers)}; only one of Unicode's own forms, such as "
                         "NFC, is known here")
    merges, made = read_merges(model["merges"], ordinary | {token["content"]: token["id"] for token in added})
    normalizer = normalizers[0] if normalizers else None
    special = read_added(added, ordinary, made, normalizer)
    tokens = [word if word is None else word.encode() if word in special else unspell(word)
              for word in words_by_id(ordinary | special)]
    return tokens, merges, special, read_split(spec.get("pre_tokenizer")), normalizer
