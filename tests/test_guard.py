"""Checks of arguments: each error shows the value given and says what would be valid."""

import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import tinygpt as tg
import torch

from tinygpt import GPT, Attention, GPTConfig, TrainConfig, guard


def test_a_whole_number_comes_back_as_an_int():
    for value in 3, np.int64(3), np.uint8(3), torch.tensor(3):
        number = guard.whole_number("steps", value, 1)
        assert number == 3 and type(number) is int


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3", None, np.float64(3), 2**32])
def test_what_is_not_a_whole_number_in_range_is_refused(value):
    with pytest.raises(ValueError) as error:
        guard.whole_number("steps", value, 1)
    assert f"steps={value!r} should be a whole number from 1 to" in str(error.value)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "1", True, None, [1]])
def test_what_is_not_a_number_is_refused(value):
    with pytest.raises(ValueError) as error:
        guard.number("lr", value)
    assert f"lr={value!r} should be a number, 0 or more" in str(error.value)


def test_numbers_may_have_limits():
    for value in 0, 0.5, np.float64(0.999):
        guard.number("dropout", value, limit=1)
    with pytest.raises(ValueError, match="dropout=1 should be a number, 0 or more and below 1$"):
        guard.number("dropout", 1, limit=1)
    with pytest.raises(ValueError, match="rope_base=0.5 should be a number, 1 or more and below 1e"):
        guard.number("rope_base", 0.5, limit=1e12, least=1)


@pytest.mark.parametrize("value", ["rmsnorm", None, 1, True, ["rms"]])
def test_an_unknown_option_names_those_there_are(value):
    with pytest.raises(ValueError) as error:
        guard.choice("norm", value, {"rms": 1, "layer": 2, "none": 3})
    assert str(error.value) == f"norm={value!r} should be 'rms', 'layer' or 'none'"


def test_a_flag_is_no_number():
    guard.choice("tied", True, (True, False))
    for value in 1, 0, np.bool_(True), "True":
        with pytest.raises(ValueError, match="should be True or False"):
            guard.choice("tied", value, (True, False))


def test_rates_may_be_left_out_but_those_of_an_optimizer_may_not():
    guard.rates(lr=0.1, vector_lr=None)
    group = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0, "params": [torch.ones(2, 3)]}
    guard.muon_group(group)
    for name in "lr", "momentum", "weight_decay":
        with pytest.raises(ValueError, match=f"{name}=None should be a number"):
            guard.muon_group(group | {name: None})
    with pytest.raises(ValueError, match=r"matrices.*\(3,\).*AdamW"):
        guard.muon_group(group | {"params": [torch.ones(3)]})


def test_heads_are_refused_with_both_numbers_and_a_way_out():
    guard.heads(128, 4, 2, None)
    guard.heads(128, 3, None, 32)
    with pytest.raises(ValueError, match="n_embd=128 .* n_head=3: make n_embd a multiple of 3, or set head_dim"):
        guard.heads(128, 3, None, None)
    with pytest.raises(ValueError, match="n_head=6 .* n_kv_head=4.* divisor of 6"):
        guard.heads(120, 6, 4, None)


@pytest.mark.parametrize(
    "sizes", [{"n_head": 0}, {"n_head": -2}, {"n_head": 2.0}, {"n_head": 4, "n_kv_head": 0}, {"n_head": 4, "head_dim": 0}]
)
def test_attention_by_itself_refuses_impossible_heads(sizes):
    name = list(sizes)[-1]
    with pytest.raises(ValueError, match=f"{name}=.* should be a whole number"):
        Attention(16, **sizes)


WRONG = {"int": ["no", "3", 2.5, True, [1], {}], "float": ["no", "1e-3", True, [1.0], math.nan, math.inf]}
WRONG |= {"bool": ["no", "True", 1, 0, None, []], "str": [5, True, None]}


@pytest.mark.parametrize("kind, least", [(GPTConfig, {"vocab_size": 50}), (TrainConfig, {"steps": 1})])
def test_every_field_of_a_config_is_checked_for_its_type(kind, least):
    kind(**least)
    for field in fields(kind):
        if field.name == "optimizer":  # looked up when the optimizers are built
            continue
        annotation = getattr(field.type, "__name__", str(field.type)).removesuffix(" | None")
        length = {"steps": None} if field.name in ("epochs", "minutes") else {}
        for value in WRONG[annotation]:
            with pytest.raises(ValueError, match=field.name):
                kind(**least | length | {field.name: value})


@pytest.fixture(scope="module")
def parts():
    """A small model, its tokenizer, a corpus and settings, with which training works."""
    tok = tg.the_tokenizer()
    model = GPT(GPTConfig(tok.vocab_size, n_layer=1, n_head=1, n_embd=16, block_size=256))
    return model, tok, tg.corpus("tales"), TrainConfig(steps=1, batch_size=1)


MISTAKES = {
    "a path for a corpus": (lambda m, t, c, s: tg.train(m, t, "a.txt", s), r"a Corpus, not 'a.txt': give corpus\("),
    "a Path for a corpus": (lambda m, t, c, s: tg.train(m, t, Path("book.txt"), s), r"a Corpus, not .*book.txt"),
    "texts for a corpus": (lambda m, t, c, s: tg.train(m, t, ["a", "b"], s), r"a Corpus, not \['a', 'b'\]"),
    "a split for a corpus": (lambda m, t, c, s: tg.train(m, t, c.train, s), "a Corpus, not Seeded"),
    "a name for tales": (lambda m, t, c, s: tg.skill_accuracy(m, t, "tales"), "a Corpus, not 'tales'"),
    "a Path for tales": (lambda m, t, c, s: tg.skill_accuracy(m, t, Path("a.txt")), "a Corpus, not .*a.txt"),
    "swapped in train": (lambda m, t, c, s: tg.train(t, m, c, s), "a model, not a BPETokenizer.* before its tokenizer"),
    "swapped in save": (lambda m, t, c, s: tg.save("nowhere", t, m), "expected a GPT, not a BPETokenizer"),
    "swapped in skills": (lambda m, t, c, s: tg.skill_accuracy(t, m, c), "a model, not a BPETokenizer"),
    "two models": (lambda m, t, c, s: tg.skill_accuracy(m, m, c), "a tokenizer, not a GPT"),
    "no tokenizer": (lambda m, t, c, s: tg.train(m, None, c, s), "a tokenizer, not a NoneType"),
    "a dict for a shape": (lambda *_: GPT({"vocab_size": 65}), r"'vocab_size': 65.* give GPTConfig\(\*\*config\)"),
    "a number for a shape": (lambda *_: GPT(65), r"config=65 should be a GPTConfig: give GPTConfig\("),
    "a dict for settings": (lambda m, t, c, s: tg.train(m, t, c, {"steps": 1}), r"give TrainConfig\(\*\*config\)"),
    "a shape for settings": (lambda m, t, c, s: tg.train(m, t, c, m.config), "should be a TrainConfig"),
    "negative heads": (lambda *_: Attention(16, -2), "n_head=-2 should be a whole number"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_common_mistakes_end_in_a_sentence(name, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mistake, said = MISTAKES[name]
    with pytest.raises(ValueError, match=said):
        mistake(*parts)
    assert not list(tmp_path.iterdir())


def test_a_config_of_a_notebook_is_one(parts):
    class GPTConfig(tg.GPTConfig):
        """A class that a reader defined by running the chapter's cell."""

    assert GPT(GPTConfig(50, n_layer=1)).config.n_layer == 1


def test_a_device_that_is_missing_is_named(parts, tmp_path, monkeypatch):
    model, tok, *_ = parts
    tg.save(tmp_path, model, tok)
    assert tg.load(tmp_path, device="cpu")[0].embed.weight.equal(model.embed.weight)

    def broken(*_, **__):
        raise AssertionError("Torch not compiled with CUDA enabled")

    if torch.cuda.is_available():
        monkeypatch.setattr(torch, "empty", broken)
    for name in "cuda", torch.device("cuda", 0):
        with pytest.raises(ValueError, match="device='cuda.*PyTorch finds no GPU: give device='cpu'"):
            tg.load(tmp_path, device=name)
    with pytest.raises(ValueError, match="device='abacus'.*no such device"):
        tg.load(tmp_path, device="abacus")
