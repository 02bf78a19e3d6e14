"""Chapter 01 against the libraries that do the same: tokenizers (Rust), tiktoken and transformers."""

import importlib.util
import itertools
import json
import multiprocessing
import pickle
import random
import subprocess
import sys
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import regex
import tiktoken
import tokenizers
from conftest import need
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from tinygpt.engine import cores, splitting
from tinygpt.engine.splitting import GPT2_SPLIT, GPT4_SPLIT, KNOWN_SPLITS, as_texts, count_chunks, pieces
from tinygpt.io import atomic
from tinygpt.io.tokenizer_files import load_gpt2, to_json
from tinygpt.tokenizer import BPETokenizer, CharTokenizer

STORY = (
    'Once there was a well, and in the well there was a fish. The fish said: "I\'ve 12345 scales!"\n\n'
    "  Nobody believed it... they'd counted 7.\r\n\tSo they counted again, and again, and again.\n"
) * 3
SPECIAL = ["<|end|>", "<|end|>ing", "<|user|>"]
# what several scripts, spaces, endings and special tokens are made of; and any character of Unicode that has a meaning
SPICE = st.sampled_from(
    [
        "'s",
        "'LL",
        "'ſ",
        "  ",
        "\n",
        "\r\n",
        " \n ",
        "\t",
        "123456",
        "½",
        "é",
        "e\u0301",
        "नमस्ते",
        "日本",
        "👩‍🚀",
        "\u00a0",
        "\u2028",
        "<|end|>",
        "<|end|>ing",
        "<|",
        "there was",
        " well",
        "...",
        "\u0958!",
        "⑴!",
        "a™",
        "한",
    ]
)
TEXT = st.lists(SPICE | st.text(st.characters(exclude_categories=["Cn", "Cs"]), max_size=6), max_size=8).map("".join)


@pytest.fixture(scope="module")
def tok():
    return BPETokenizer.train(STORY, 320, SPECIAL)


def rust_trained(texts, vocab_size, pattern, special=()):
    "The Rust library's own training, with the same chunks and the same bytes to begin with."
    rust = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    rust.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    rust.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    rust.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False, special_tokens=list(special)
        ),
    )
    return rust


# ---- learning


def same_as_rust(texts, vocab_size, pattern):
    rust = json.loads(rust_trained(texts, vocab_size, pattern).to_str())["model"]
    ours = to_json(BPETokenizer.train(texts, vocab_size, pattern=pattern))["model"]
    assert ours["merges"] == rust["merges"] and ours["vocab"] == rust["vocab"]


@pytest.mark.parametrize("pattern", [GPT2_SPLIT, GPT4_SPLIT])
def test_learns_what_the_rust_trainer_learns(reference, pattern):
    same_as_rust([(reference / "tinyshakespeare.txt").read_text(encoding="utf-8")[:200_000]], 2000, pattern)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text("ab \n1é", max_size=40), max_size=5),
    st.integers(256, 290),
    st.sampled_from([GPT2_SPLIT, GPT4_SPLIT]),
)
def test_ties_fall_as_in_the_rust_trainer(texts, vocab_size, pattern):
    same_as_rust(texts, vocab_size, pattern)


def test_the_order_of_texts_does_not_matter():
    words = STORY.split(" ")
    assert BPETokenizer.train(words, 350).merges == BPETokenizer.train(words[::-1], 350).merges


def test_large_texts_are_counted_on_all_cores_alike(monkeypatch):
    text = STORY * 300
    assert count_chunks([text], GPT4_SPLIT) == Counter(regex.findall(GPT4_SPLIT, text))
    used = []

    class Pool(cores.ProcessPoolExecutor):
        def submit(self, *args):
            used.append(args)
            return super().submit(*args)

    monkeypatch.setattr(cores.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(cores, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(splitting, "BATCH", 10_000)
    assert count_chunks([text, STORY], GPT4_SPLIT) == Counter(
        regex.findall(GPT4_SPLIT, text) + regex.findall(GPT4_SPLIT, STORY)
    )
    assert len(used) > 5


def test_memory_follows_the_distinct_chunks():
    code = (
        "import resource, tinygpt, random\n"
        "words = [f'word{i}' for i in range(20000)]\n"
        "def texts():\n"
        "    rng = random.Random(0)\n"
        "    for _ in range(800): yield ' '.join(rng.choices(words, k=5000))\n"
        "tinygpt.BPETokenizer.train('a ' * 9_000_000, 300)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "tok = tinygpt.BPETokenizer.train(texts(), 300)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    need(importlib.util.find_spec("resource"), "the module resource")
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown < 100_000_000 / (1 if sys.platform == "darwin" else 1024)  # 36 million characters went through


# ---- cutting


@settings(max_examples=300, deadline=None)
@given(text=TEXT)
@example(text="")
def test_cuts_as_the_rust_library_does(tok, rust, text):
    assert tok.encode(text, allowed_special="all") == rust.encode(text).ids
    assert tok.decode(tok.encode(text)) == text == tok.decode(tok.encode(text, allowed_special="all"))
    assert rust.decode(rust.encode(text).ids, skip_special_tokens=False) == text


@pytest.fixture(scope="module")
def rust(tok, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tok")
    tok.save(folder)
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def gpt2(reference):
    return load_gpt2(BPETokenizer, reference / "gpt2" / "encoder.json", reference / "gpt2" / "vocab.bpe")


@pytest.fixture(scope="module")
def gpt2_tiktoken(reference):
    files = {
        "encoder_json_file": str(reference / "gpt2/encoder.json"),
        "vocab_bpe_file": str(reference / "gpt2/vocab.bpe"),
    }
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    return tiktoken.Encoding(
        "gpt2",
        pat_str=pattern,
        mergeable_ranks=data_gym_to_mergeable_bpe_ranks(**files),
        special_tokens={"<|endoftext|>": 50256},
    )


@settings(max_examples=400, deadline=None)
@given(text=TEXT)
@example(text="half a pair \ud83d and a whole one \ud83d\ude00, reversed \ude00\ud83d")
def test_gpt2_as_tiktoken_does(gpt2, gpt2_tiktoken, text):
    assert gpt2.encode(text) == gpt2_tiktoken.encode(text, disallowed_special=())
    text += "<|endoftext|>" + text
    ids = gpt2_tiktoken.encode(text, allowed_special="all")
    assert gpt2.encode(text, allowed_special="all") == ids and gpt2.decode_bytes(ids) == gpt2_tiktoken.decode_bytes(ids)


def test_gpt2_on_a_whole_book(gpt2, gpt2_tiktoken, reference):
    book = (reference / "tinyshakespeare.txt").read_text(encoding="utf-8")
    assert gpt2.encode(book) == gpt2_tiktoken.encode(book)
    assert gpt2.vocab_size == 50257 and gpt2.token_bytes(50256) == b"<|endoftext|>"


@settings(max_examples=300, deadline=None)
@given(text=TEXT)
def test_gpt4_pattern_as_tiktoken_reads_it(tok, text):
    published = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
        r"|\s+(?!\S)|\s"
    )
    ranks = {token: i for i, token in enumerate(tok.tokens) if i not in tok.special_tokens.values()}
    assert tok.encode(text) == tiktoken.Encoding(
        "ours", pat_str=published, mergeable_ranks=ranks, special_tokens={}
    ).encode(text)


def test_long_chunks_take_no_longer_than_they_must(tok):
    letters = "".join(random.Random(0).choices("aeinst", k=300_000))  # quadratic work would take minutes here
    assert tok.decode(tok.encode(letters)) == letters


# ---- streaming


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXT, max_size=4), st.sampled_from(sorted(KNOWN_SPLITS)), st.integers(1, 9))
def test_pieces_cut_through_no_chunk(texts, pattern, size):
    whole, cut = "".join(texts), list(pieces(texts, pattern, size=size))
    assert "".join(cut) == whole
    chunks = itertools.chain.from_iterable(regex.findall(pattern, piece) for piece in cut)
    assert list(chunks) == regex.findall(pattern, whole)
    for form in "NFC", "NFD", "NFKC", "NFKD":
        cut = [unicodedata.normalize(form, piece) for piece in pieces(texts, pattern, form=form, size=size)]
        chunks = itertools.chain.from_iterable(regex.findall(pattern, piece) for piece in cut)
        assert list(chunks) == regex.findall(pattern, unicodedata.normalize(form, whole))


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXT, max_size=5), size=st.integers(1, 40))
def test_a_stream_gives_the_ids_of_the_whole(tok, texts, size):
    for allowed in (), "all", ["<|end|>"]:
        whole = tok.encode("".join(texts), allowed_special=allowed)
        before, pieces.__defaults__ = pieces.__defaults__, (None, None, size)
        try:
            assert list(tok.encode_iterable(texts, allowed_special=allowed)) == whole
        finally:
            pieces.__defaults__ = before


def test_pieces_do_cut():
    assert max(map(len, pieces([STORY * 50], GPT4_SPLIT, size=100))) < 300


def test_a_stream_is_lazy(tok):
    endless = tok.encode_iterable(itertools.repeat("there was a fish\n"))
    assert list(itertools.islice(endless, 8)) == tok.encode("there was a fish\n" * 8)[:8]
    assert list(itertools.islice(CharTokenizer.train("ab").encode_iterable(itertools.repeat("ab")), 3)) == [0, 1, 0]


def test_a_surrogate_pair_may_come_in_halves(tok):
    assert tok.decode(tok.encode_iterable(["a\ud83d", "\ude00b", "\ud83d"])) == "a😀b�"


def test_what_is_remembered_of_long_chunks_is_bounded(tok):
    letters = random.Random(0)
    for _ in range(100):
        tok.encode("".join(letters.choices("qxz", k=50_000)))
    assert sum(map(len, tok.known)) < 3_000_000


def test_large_texts_can_be_counted_by_a_daemon(monkeypatch):
    monkeypatch.setattr(splitting, "BATCH", 1000)
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 2)
    context = multiprocessing.get_context("fork") if "fork" in multiprocessing.get_all_start_methods() else None
    need(context, "a system that can fork")
    daemon = context.Process(target=count_chunks, args=([STORY * 9], GPT4_SPLIT), daemon=True)
    daemon.start()
    daemon.join(60)
    assert daemon.exitcode == 0


def test_threads_may_save_into_one_folder(tok, tmp_path):
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: tok.save(tmp_path), range(20)))
    assert BPETokenizer.load(tmp_path).encode(STORY) == tok.encode(STORY)


# ---- special tokens


def test_special_tokens_come_last_and_never_by_accident(tok):
    assert [tok.special_tokens[name] for name in SPECIAL] == [317, 318, 319] and tok.vocab_size == 320
    assert max(tok.encode("".join(SPECIAL))) < 317
    assert tok.encode("<|end|>ing<|end|>", allowed_special="all") == [318, 317]
    assert tok.encode("<|end|>ing", allowed_special=["<|end|>"]) == [317, *tok.encode("ing")]
    assert tok.decode([317]) == "<|end|>" and tok.token_bytes(318) == b"<|end|>ing"


def test_text_in_training_makes_no_special_token():
    tok = BPETokenizer.train("<|end|> " * 100, 300, ["<|stop|>"])
    assert tok.encode("<|stop|>", allowed_special="all") == [tok.vocab_size - 1]


# ---- files


def test_transformers_reads_our_files(tok, tmp_path):
    from transformers import AutoTokenizer

    tok.save(tmp_path / "bpe")
    chars = CharTokenizer.train(STORY)
    chars.save(tmp_path / "chars")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "bpe")
    text = STORY + "<|end|>" + STORY
    ids = theirs(text).input_ids
    assert ids == tok.encode(text, allowed_special="all") and theirs.decode(ids) == text and len(theirs) == 320
    assert theirs(text, split_special_tokens=True).input_ids == tok.encode(text)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "chars")
    assert theirs(STORY).input_ids == chars.encode(STORY) and theirs.decode(chars.encode(STORY)) == STORY


def test_what_is_saved_is_what_is_loaded(tok, tmp_path):
    for one in tok, CharTokenizer.train(STORY), BPETokenizer.train("", 256), CharTokenizer.train(""):
        one.save(tmp_path)
        again = type(one).load(tmp_path)
        assert to_json(again) == to_json(one) and again.tokens == one.tokens
        assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert pickle.loads(pickle.dumps(tok)).encode(STORY) == tok.encode(STORY)


def qwen_like():
    pattern = next(pattern for pattern in KNOWN_SPLITS if r"\p{N}|" in pattern)
    rust = rust_trained([STORY], 320, pattern)
    rust.normalizer = normalizers.NFC()
    rust.post_processor = processors.ByteLevel(trim_offsets=False)
    rust.add_special_tokens(["<|endoftext|>", "<|im_start|>"])
    rust.add_tokens([tokenizers.AddedToken("<tool_call>", normalized=False)])
    return rust


def gpt2_like():
    rust = tokenizers.Tokenizer(models.BPE())
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    rust.train_from_iterator(
        [STORY],
        trainers.BpeTrainer(
            vocab_size=310,
            special_tokens=["<|end|>"],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return rust


def unsplit():
    rust = gpt2_like()
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return rust


def own_pattern():
    return rust_trained([STORY], 300, r"[aeiou]+|\d")


@pytest.mark.parametrize("make", [qwen_like, gpt2_like, unsplit, own_pattern])
def test_loads_what_the_rust_library_made(make, tmp_path):
    rust = make()
    rust.save(str(tmp_path / "tokenizer.json"))
    ours = BPETokenizer.load(tmp_path)

    @settings(max_examples=100, deadline=None)
    @given(TEXT)
    def same(text):
        text += "<tool_call>" + text
        assert ours.encode(text, allowed_special="all") == rust.encode(text).ids

    same()
    ours.save(tmp_path / "again")
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    assert again.encode(STORY).ids == rust.encode(STORY).ids and again.get_vocab() == rust.get_vocab()


def test_loads_merges_in_the_old_form(tok, tmp_path):
    spec = to_json(tok)
    spec["model"]["merges"] = [" ".join(merge) for merge in spec["model"]["merges"]]
    del spec["model"]["type"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    assert BPETokenizer.load(tmp_path).encode(STORY) == tok.encode(STORY)


def change(*path, to):
    def changed(spec):
        place = spec
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to
        return spec

    return changed


@pytest.mark.parametrize(
    "damage, said",
    [
        (change("model", "type", to="Unigram"), "Unigram"),
        (change("model", "byte_fallback", to=True), "byte_fallback"),
        (change("model", "dropout", to=0.1), "dropout"),
        (change("model", "vocab", "!", to=7), "each once"),
        (change("model", "vocab", "!", to="0"), "not"),
        (change("model", "merges", 3, to=["no", "pe"]), "'no' and 'pe'"),
        (change("model", "merges", 3, to=["one"]), "not enough values"),
        (lambda spec: spec["model"]["merges"].reverse() or spec, "only after it was used"),
        (change("model", to=None), "does not hold a BPE vocabulary"),
        (change("added_tokens", 0, "lstrip", to=True), "lstrip"),
        (change("normalizer", to={"type": "Lowercase"}), "Lowercase"),
        (change("post_processor", to={"type": "TemplateProcessing"}), "TemplateProcessing"),
        (change("pre_tokenizer", to={"type": "Whitespace"}), "pre-tokenizer"),
        (change("pre_tokenizer", "pretokenizers", 1, "add_prefix_space", to=True), "prefix space"),
        (change("pre_tokenizer", "pretokenizers", 0, "behavior", to="Removed"), "isolate"),
        (change("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex", to="(["), "does not work"),
    ],
)
def test_a_file_that_would_give_other_ids_is_refused(tok, tmp_path, damage, said):
    (tmp_path / "tokenizer.json").write_text(json.dumps(damage(to_json(tok))), encoding="utf-8")
    with pytest.raises(ValueError, match=regex.escape(said)) as caught:
        BPETokenizer.load(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(caught.value)


def added(**token):
    def changed(spec):
        spec["added_tokens"].append({"id": len(spec["model"]["vocab"]), **token})
        return spec

    return changed


@pytest.mark.parametrize(
    "damage, said",
    [
        (added(id=0, content="!"), "'!' is an ordinary token"),
        (added(content=""), "is empty"),
        (added(content="<x>", normalized=True), "after it was normalized"),
        (change("truncation", to={"max_length": 3}), "truncation"),
        (change("padding", to={"pad_id": 3}), "padding"),
        (change("pre_tokenizer", to=None), "ByteLevel"),
        (change("pre_tokenizer", to={"type": "Sequence", "pretokenizers": []}), "ByteLevel"),
        (change("pre_tokenizer", "pretokenizers", 0, "pattern", to={"String": " "}), "isolate"),
        *[
            (change("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex", to=pattern), said)
            for pattern, said in [
                (r"(\w+)|\s", "groups"),
                ("a\\", "does not work"),
                ("(?x)a # b", "another way"),
                (r"\h+", "another way"),
                ("", "matches nothing"),
                ("[a-z&&[^aeiou]]+", "another way"),
                ("(?R)", "another way"),
                (7, "TypeError"),
            ]
        ],
        (change("model", "vocab", "!", to=False), "each once"),
        (change("model", "vocab", "!", to=0.0), "each once"),
        (change("model", "merges", to=""), "not enough values"),
    ],
)
def test_what_the_library_would_read_otherwise_is_refused(tok, tmp_path, damage, said):
    test_a_file_that_would_give_other_ids_is_refused(tok, tmp_path, damage, said)


@pytest.mark.parametrize(
    "part, to",
    [
        ("pre_tokenizer", {"type": "Whitespace"}),
        ("normalizer", {"type": "Lowercase"}),
        ("post_processor", {"type": "ByteLevel"}),
        ("added_tokens", [{"id": 2, "content": "ab"}]),
        ("padding", {"pad_id": 0}),
    ],
)
def test_characters_of_another_making_are_refused(tmp_path, part, to):
    spec = to_json(CharTokenizer.train("ab"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec | {part: to}), encoding="utf-8")
    with pytest.raises(ValueError, match=part):
        CharTokenizer.load(tmp_path)


def test_a_file_cut_short_or_of_another_kind_is_refused(tok, tmp_path):
    path = tmp_path / "tokenizer.json"
    tok.save(tmp_path)
    whole = path.read_bytes()
    for length in random.Random(0).sample(range(len(whole) - 1), 30):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is damaged"):
            BPETokenizer.load(tmp_path)
    for foreign in (
        b"[" * 100_000,
        b"\xff\xfe",
        b"{}",
        b"[]",
        b"7",
        json.dumps(to_json(CharTokenizer.train("ab"))).encode(),
    ):
        path.write_bytes(foreign)
        with pytest.raises(ValueError, match="tokenizer.json"):
            BPETokenizer.load(tmp_path)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="CharTokenizer reads no other"):
        CharTokenizer.load(tmp_path)


def test_a_failed_save_leaves_the_old_file(tok, tmp_path, monkeypatch):
    tok.save(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()
    monkeypatch.setattr(atomic.os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        BPETokenizer.train("other", 300).save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == before and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "text, said",
    [
        ("#version: 0.2\none\n", "'one' is not a pair"),
        ("#version: 0.2\na b c\n", "'a b c' is not a pair"),
        (b"\xff", "utf-8"),
    ],
)
def test_damaged_gpt2_merges(reference, tmp_path, text, said):
    (tmp_path / "vocab.bpe").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=said) as caught:
        load_gpt2(BPETokenizer, reference / "gpt2" / "encoder.json", tmp_path / "vocab.bpe")
    assert str(tmp_path / "vocab.bpe") in str(caught.value)


def test_damaged_gpt2_vocabulary(reference, tmp_path):
    vocab = json.loads((reference / "gpt2" / "encoder.json").read_text(encoding="utf-8"))
    for damage in {"!": "0"}, {"!": None}, {"<|endoftext|>": "end"}, {"!": 7}:
        (tmp_path / "encoder.json").write_text(json.dumps(vocab | damage), encoding="utf-8")
        with pytest.raises(ValueError, match="encoder.json is damaged"):
            load_gpt2(BPETokenizer, tmp_path / "encoder.json", reference / "gpt2" / "vocab.bpe")


def test_gpt2_files_that_do_not_belong_together(reference, tmp_path):
    short = tmp_path / "vocab.bpe"
    short.write_text("#version: 0.2\n\u0120 t\n", encoding="utf-8")
    with pytest.raises(ValueError, match="50257 tokens do not go with the 1 merges"):
        load_gpt2(BPETokenizer, reference / "gpt2" / "encoder.json", short)


# ---- bad input


def test_ids_out_of_range(tok):
    for id in -1, 320, 10**30:
        with pytest.raises(ValueError, match=f"id {id} is not among the 320 ids"):
            tok.decode([5, id])


@pytest.mark.parametrize(
    "vocab_size, special, said",
    [
        (255, [], "ask for 256 or more"),
        (257, SPECIAL, "ask for 259 or more"),
        (300, ["a", "a"], "distinct"),
        (300, [""], "empty"),
        (300, "<|end|>", "give a list"),
        (300, ["a"], "'a' is a special token and an ordinary one"),
    ],
)
def test_impossible_vocabularies(vocab_size, special, said):
    with pytest.raises(ValueError, match=regex.escape(said)):
        BPETokenizer.train(STORY, vocab_size, special)


@pytest.mark.parametrize("wrong", [b"bytes", [b"bytes"], [["nested"]], [1]])
def test_what_is_not_text(tok, wrong):
    for use in (lambda: BPETokenizer.train(wrong, 300), lambda: CharTokenizer.train(wrong), lambda: tok.encode(wrong)):
        with pytest.raises(ValueError, match=r"expected text \(str\), got"):
            use()


def test_unknown_special_token(tok):
    with pytest.raises(ValueError, match="give a list"):
        tok.encode("text", allowed_special="<|end|>")
    with pytest.raises(ValueError, match="'<|nope|>' is not one of the special tokens".replace("|", r"\|")):
        tok.encode("text", allowed_special=["<|nope|>"])


def test_unknown_character():
    chars = CharTokenizer.train("abc")
    with pytest.raises(ValueError, match="'z' is not among the 3 characters"):
        chars.encode("abz")


def test_a_vocabulary_without_all_bytes(tmp_path):
    rust = tokenizers.Tokenizer(models.BPE())
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    rust.train_from_iterator([STORY], trainers.BpeTrainer(vocab_size=100, show_progress=False))
    rust.save(str(tmp_path / "tokenizer.json"))
    ours = BPETokenizer.load(tmp_path)
    assert ours.encode(STORY) == rust.encode(STORY).ids
    with pytest.raises(ValueError, match="not in this vocabulary"):
        ours.encode("日")


def test_empty_text_is_fine(tok):
    assert tok.encode("") == [] and tok.decode([]) == "" and list(tok.encode_iterable([])) == []
    assert BPETokenizer.train([], 300).vocab_size == 256 and CharTokenizer.train("").vocab_size == 0


@given(st.text())
def test_characters_there_and_back(text):
    chars = CharTokenizer.train(text)
    clean = "".join(as_texts(text))
    assert chars.decode(chars.encode(text)) == clean and chars.decode_bytes(chars.encode(text)) == clean.encode()
