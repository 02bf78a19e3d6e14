"""What arguments must be: each refusal names what was given, and what would do."""

import math

import numpy as np
import pytest
import torch

from tinygpt import Attention, guard


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
