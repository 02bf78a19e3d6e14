"""Sampling: each step against transformers' or a closed form, and text that comes whole, the same and in time."""

import contextlib
import inspect
import itertools
import math
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tinygpt as tg
from tinygpt import GPT, BPETokenizer, CharTokenizer, GPTConfig, generate, stream
from tinygpt.cache import Decoder
from tinygpt.engine import pieces
from tinygpt.engine.ranking import most_probable
from tinygpt.sample import (
    Sampler,
    beam_search,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
    scale_temperature,
)

INF = math.inf
NEARLY_1 = 1 - 2**-53
some = settings(max_examples=60, deadline=None)

number = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), st.floats(-8, 8, width=32), st.just(-INF))


@st.composite
def logit_rows(draw_, least: int = 1):
    """Logits (B, V) with ties and masked tokens; each row has at least one that is left."""
    rows, size = draw_(st.integers(1, 3)), draw_(st.integers(least, 12))
    found = [draw_(st.lists(number, min_size=size, max_size=size)) for _ in range(rows)]
    assume(all(max(row) > -INF for row in found))
    return torch.tensor(found)


def equal(a: torch.Tensor, b: torch.Tensor):
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


# From logits to logits, against transformers


@some
@given(logit_rows(), st.floats(0.05, 20))
def test_temperature_is_that_of_transformers(logits, temperature):
    equal(scale_temperature(logits, temperature), transformers.TemperatureLogitsWarper(temperature)(None, logits))


@some
@given(logit_rows(), st.integers(1, 15))
def test_top_k_is_that_of_transformers(logits, k):
    found = keep_top_k(logits, k)
    equal(found, transformers.TopKLogitsWarper(k)(None, logits.clone()))
    equal(found[0], keep_top_k(logits[0], k))


@some
@given(logit_rows(), st.floats(0, 0.999))
def test_top_p_is_that_of_transformers(logits, p):
    sums = logits.double().softmax(-1).sort(dim=-1, descending=True).values.cumsum(-1)
    assume(((sums - p).abs() > 1e-5).all())  # there, single precision decides
    found = keep_top_p(logits, p)
    theirs = transformers.TopPLogitsWarper(p)(None, logits.clone())
    equal(found.sort(-1).values, theirs.sort(-1).values)  # of equal ones they keep any
    for row, kept in zip(logits.tolist(), (found > -INF).tolist()):
        for i, j in itertools.combinations(range(len(row)), 2):
            assert row[i] != row[j] or kept[i] >= kept[j]
    equal(found[0], keep_top_p(logits[0], p))


@some
@given(logit_rows(), st.floats(0, 1))
def test_min_p_is_that_of_transformers(logits, p):
    found = keep_min_p(logits, p)
    equal(found, transformers.MinPLogitsWarper(p)(None, logits.clone()))
    equal(found[0], keep_min_p(logits[0], p))


@some
@given(logit_rows(), st.floats(0.2, 5), st.data())
def test_the_repetition_penalty_is_that_of_transformers(logits, penalty, data):
    token = st.integers(0, logits.shape[1] - 1)
    ids = [data.draw(st.lists(token, max_size=6)) for _ in logits]  # rows of any length
    found = penalize_repetition(logits, ids, penalty)
    for row, row_ids, row_found in zip(logits, ids, found):
        wanted = row if not row_ids else None
        if wanted is None:
            theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)
            wanted = theirs(torch.tensor([row_ids]), row[None].clone())[0]
        equal(row_found, wanted)
        equal(penalize_repetition(row, row_ids, penalty), wanted)
    same_length = torch.tensor([[i % logits.shape[1] for i in range(3)]] * len(logits))
    theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)(same_length, logits.clone())
    equal(penalize_repetition(logits, same_length, penalty), theirs)


@some
@given(
    logit_rows(least=3), st.floats(0.3, 3), st.integers(1, 9), st.floats(0.05, 0.95), st.floats(0, 0.5), st.floats(1, 3)
)
def test_a_sampler_is_transformers_list_of_processors(logits, temperature, k, p, min_p, penalty):
    ids = torch.tensor([[0, 2, 0]] * len(logits))
    processors = [
        transformers.RepetitionPenaltyLogitsProcessor(penalty),
        transformers.TemperatureLogitsWarper(temperature),
        transformers.TopKLogitsWarper(k),
    ]
    before = transformers.LogitsProcessorList(processors)(ids, logits.clone())
    sums = before.double().softmax(-1).sort(dim=-1, descending=True).values.cumsum(-1)
    assume(((sums - p).abs() > 1e-5).all())
    processors += [transformers.TopPLogitsWarper(p), transformers.MinPLogitsWarper(min_p)]
    theirs = transformers.LogitsProcessorList(processors)(ids, logits.clone())
    ours = Sampler(temperature, k, p, min_p, penalty)(logits, ids)
    equal(ours.sort(-1).values, theirs.sort(-1).values)


# What transformers leaves open


def test_temperature_0_keeps_the_first_of_the_most_probable():
    logits = torch.tensor([[1.0, 3.0, 3.0], [-INF, -INF, -2.0]])
    equal(scale_temperature(logits, 0), torch.tensor([[-INF, 3.0, -INF], [-INF, -INF, -2.0]]))
    equal(scale_temperature(logits[0], 0), torch.tensor([-INF, 3.0, -INF]))


@some
@given(logit_rows())
def test_the_ends_of_each_range(logits):
    size = logits.shape[1]
    for changed in (
        keep_top_k(logits, size),
        keep_top_k(logits, size + 5),
        keep_top_p(logits, 1),
        keep_top_p(logits, 1.0),
        keep_min_p(logits, 0),
        scale_temperature(logits, 1),
        penalize_repetition(logits, [[0]] * len(logits), 1),
    ):
        equal(changed, logits)
    equal(keep_top_p(logits, 0), scale_temperature(logits, 0))
    assert ((keep_min_p(logits, 1) > -INF) == (logits.softmax(-1) == logits.softmax(-1).amax(-1, True))).all()


def test_p_1_keeps_even_what_rounds_to_nothing():
    logits = torch.tensor([[0.0, -90.0, -800.0]])
    equal(keep_top_p(logits, 1), logits)
    assert (keep_top_p(logits, NEARLY_1) > -INF).tolist() == [[True, False, False]]


def test_of_equal_ones_the_first_stay_with_top_p_and_all_with_top_k():
    logits = torch.tensor([[0.0, 1.0, 1.0, 1.0]])
    assert (keep_top_p(logits, 0.5) > -INF).tolist() == [[False, True, True, False]]
    assert (keep_top_k(logits, 2) > -INF).tolist() == [[False, True, True, True]]


def test_top_p_keeps_the_token_that_crosses_p_and_none_behind_it():
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log2() * math.log(2)  # powers of two are exact
    kept = {p: (keep_top_p(logits, p) > -INF).sum().item() for p in (0.0, 0.25, 0.49, 0.51, 0.74, 0.76, 0.99)}
    assert kept == {0.0: 1, 0.25: 1, 0.49: 1, 0.51: 2, 0.74: 2, 0.76: 3, 0.99: 3}


@pytest.mark.parametrize("scale", [0.001, 3.0, 40.0])
@pytest.mark.parametrize("size", [100, 257, 3000, 20_000])
def test_sorting_only_a_part_changes_nothing(size, scale):
    rng = torch.Generator().manual_seed(size)
    logits = (torch.randn(3, size, generator=rng).mul(4).round() / 4 * scale).double()  # many are equal
    logits[1, ::3] = -INF
    probs = logits.softmax(-1)
    whole = logits.sort(dim=-1, descending=True, stable=True).indices
    for share in 0.0, 0.3, 0.9, 0.999, torch.tensor([0.1, 0.99, NEARLY_1]):
        order = most_probable(logits, probs, share)
        sums = probs.gather(-1, whole).cumsum(-1)
        n = ((sums <= torch.as_tensor(share)[..., None]).sum(-1) + 1).clamp(max=size)
        for row in range(3):
            assert order[row, : n[row]].tolist() == whole[row, : n[row]].tolist()


def test_only_a_part_is_sorted_where_it_will_do():
    logits = torch.randn(1, 50_000, generator=torch.Generator().manual_seed(0)).mul(9)
    sizes = [most_probable(logits, logits.double().softmax(-1), share).shape for share in (0.5, 1.0)]
    assert sizes == [(1, 256), (1, 50_000)]


# The order of a sampler


def probabilities(sampler: Sampler, *probs: float, ids=((),)) -> list[float]:
    logits = torch.tensor([probs]).log()
    return [round(p, 3) for p in sampler(logits, ids).softmax(-1)[0].tolist()]


def test_the_order_matters():
    probs = 0.5, 0.25, 0.15, 0.1
    # temperature 0.5 squares them: 0.25, 0.0625, 0.0225, 0.01 of 0.345, so the first has 0.725
    assert probabilities(Sampler(temperature=0.5, top_p=0.7), *probs) == [1, 0, 0, 0]
    assert probabilities(Sampler(temperature=1.0, top_p=0.7), *probs) == [0.667, 0.333, 0, 0]  # top-p first: two stay
    # of two, the first has 2/3
    assert probabilities(Sampler(top_k=2, top_p=0.6), *probs) == [1, 0, 0, 0]
    assert probabilities(Sampler(top_p=0.6), *probs) == [0.667, 0.333, 0, 0]
    # min-p compares with the largest one after the temperature: 0.0625 / 0.25 = 0.25
    assert probabilities(Sampler(temperature=0.5, min_p=0.3), *probs) == [1, 0, 0, 0]
    assert probabilities(Sampler(min_p=0.3), *probs) == [0.556, 0.278, 0.167, 0]
    # the penalty before greedy: log 0.5 * 3 = log 0.125
    assert probabilities(Sampler(temperature=0, repetition_penalty=3.0), *probs, ids=[[0]]) == [0, 1, 0, 0]


def test_a_sampler_that_is_off_changes_nothing():
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    equal(Sampler()(logits, [[1], [2, 3]]), logits)


# Drawing


def by_hand(logits: list[float], u: float) -> int:
    """The sum of probabilities, the largest first, one by one."""
    probs = torch.tensor(logits, dtype=torch.float64).softmax(-1).tolist()
    order = sorted(range(len(probs)), key=lambda i: (-logits[i], i))
    for i, total in zip(order, itertools.accumulate(probs[i] for i in order)):
        if total > u:
            return i
    return [i for i in order if probs[i] > 0][-1]


@some
@given(logit_rows(), st.data())
def test_draw_is_inverse_transform_sampling(logits, data):
    one = st.one_of(st.sampled_from([0.0, 0.5, NEARLY_1]), st.floats(0, NEARLY_1))
    u = [data.draw(one) for _ in logits]
    found = draw(logits, torch.tensor(u, dtype=torch.float64))
    assert found.dtype == torch.int64
    assert found.tolist() == [by_hand(row, x) for row, x in zip(logits.tolist(), u)]
    assert draw(logits[0], torch.tensor(u[0], dtype=torch.float64)) == found[0]
    assert (logits.double().softmax(-1).gather(-1, found[:, None]) > 0).all()


@pytest.mark.parametrize("size", [7, 300, 5000])
def test_a_token_without_probability_is_never_drawn(size):
    u = torch.tensor([0.0, 0.5, NEARLY_1], dtype=torch.float64)
    for seed in range(20):
        logits = torch.randn(3, size, generator=torch.Generator().manual_seed(seed)) * 3
        logits[:, 1::2] = -INF
        logits[:, -3] = -800.0  # exp underflows
        found = draw(logits, u)
        best = logits.softmax(-1).sort(dim=-1, descending=True)
        assert found[0] == logits[0].argmax() and not (found % 2).any() and (found != size - 3).all()
        assert best.values[2, (best.indices[2] == found[2]).nonzero().item()] < 1e-3 or size == 7


def test_equal_ones_are_drawn_in_the_order_of_their_ids():
    for logits in torch.zeros(4), torch.tensor([0.0, -INF, 0.0, 0.0, 0.0]):
        left = [i for i, logit in enumerate(logits.tolist()) if logit == 0]
        u = torch.tensor([0.0, 0.24, 0.25, 0.49, 0.5, 0.74, 0.75, NEARLY_1], dtype=torch.float64)
        drawn = draw(logits.expand(8, -1), u).tolist()
        assert drawn == [i for i in left for _ in range(2)]


@pytest.mark.parametrize(
    "row, said",
    [
        ([0.0, math.nan], "logit of row 1 is nan"),
        ([INF, 0.0], "logit of row 1 is inf"),
        ([-INF, -INF], "no token of row 1 is left"),
    ],
)
def test_rows_that_cannot_be_drawn_from_are_named(row, said):
    logits = torch.tensor([[0.0, 1.0], row, row])
    for sampler in Sampler(), Sampler(0.0), Sampler(0.5, 1, 0.9, 0.1, 1.2):
        with pytest.raises(ValueError, match=said):
            draw(sampler(logits, [[0]] * 3), torch.zeros(3))


def chi_squared(counts: torch.Tensor, probs: torch.Tensor) -> float:
    """How far counts are from probabilities, divided by what chance exceeds once in a million (Wilson-Hilferty)."""
    assert (counts[probs == 0] == 0).all()
    counts, probs = counts[probs > 0].double(), probs[probs > 0].double()
    wanted, df = counts.sum() * probs / probs.sum(), len(probs) - 1
    assert wanted.min() > 5
    limit = df * (1 - 2 / (9 * df) + 4.753 * (2 / (9 * df)) ** 0.5) ** 3
    return (((counts - wanted) ** 2 / wanted).sum() / limit).item()


SETTINGS = [{}, {"temperature": 0.6}, {"temperature": 1.7}, {"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.2}]
SETTINGS += [{"repetition_penalty": 1.8}, {"temperature": 1.3, "top_k": 6, "top_p": 0.9, "min_p": 0.05}]


def closed_form(probs: list[float], temperature=1.0, top_k=None, top_p=None, min_p=None, repetition_penalty=1.0):
    """The probabilities that these settings leave, by arithmetic on probabilities alone; token 0 has occurred."""
    probs = [p ** (repetition_penalty if i == 0 else 1) for i, p in enumerate(probs)]  # all logits are negative
    probs = [p ** (1 / temperature) for p in probs]
    order = sorted(range(len(probs)), key=lambda i: -probs[i])[:top_k]
    total, kept = sum(probs[i] for i in order), []
    for i in order:
        if top_p is None or sum(probs[j] for j in kept) < top_p * total:
            kept.append(i)
    kept = [i for i in kept if probs[i] >= (min_p or 0) * max(probs)]
    return torch.tensor([probs[i] / sum(probs[j] for j in kept) if i in kept else 0 for i in range(len(probs))])


@pytest.mark.parametrize("how", SETTINGS, ids=str)
def test_many_draws_have_the_distribution_of_the_closed_form(how):
    probs, n = [0.27, 0.21, 0.16, 0.12, 0.09, 0.07, 0.05, 0.03], 40_000
    logits = torch.tensor([probs]).log()
    u = torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = draw(Sampler(**how)(logits, [[0]]).expand(n, -1), u)
    counts = drawn.bincount(minlength=len(probs))
    assert chi_squared(counts, closed_form(probs, **how)) < 1
    others = [other for other in SETTINGS if other != how]
    for other in others:  # and this test would notice another setting
        wanted = closed_form(probs, **other)
        assert (counts[wanted == 0] > 0).any() or chi_squared(counts, wanted) > 1


# Writing


class FourNames:
    """A tokenizer that has what the contract asks for, and no more; each byte is a token."""

    vocab_size = 256

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")

    def save(self, folder): ...


class Chunks(FourNames):
    """A tokenizer that knows these tokens, in bytes."""

    def __init__(self, tokens: list[bytes]):
        self.tokens, self.most = tokens, 0
        self.vocab_size = len(tokens)

    def decode(self, ids):
        ids = list(ids)
        self.most = max(self.most, len(ids))
        return b"".join([self.tokens[i] for i in ids]).decode(errors="replace")


def new_model(vocab_size: int = 256, seed: int = 0, **changes) -> GPT:
    torch.manual_seed(seed)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 64}
    model = GPT(GPTConfig.modern(vocab_size, **sizes | changes))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return model


def no_model(vocab_size: int) -> SimpleNamespace:
    """What stands for a model where a script says what it writes."""
    return SimpleNamespace(config=SimpleNamespace(vocab_size=vocab_size))


@contextlib.contextmanager
def scripted(*scripts: list[int]):
    """Inside, each row's next tokens are those of its script (after them, token 0), whatever the model."""

    class Scripted:
        def __init__(self, model, prompts, dtype=None, compile=False):
            self.size, self.step = model.config.vocab_size, 0
            self.show()

        def show(self):
            ids = [script[self.step] if self.step < len(script) else 0 for script in scripts]
            self.logits = torch.full((len(ids), self.size), -INF)
            self.logits[range(len(ids)), ids] = 0.0

        def append(self, ids):
            self.step += 1
            self.show()
            return self.logits

    with mock.patch("tinygpt.sample.Decoder", Scripted):
        yield


def test_greedy_equals_a_loop_by_hand():
    model, tok = new_model(), FourNames()
    ids = tok.encode("Once upon")
    for _ in range(40):
        ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    assert generate(model, tok, "Once upon", 40, temperature=0) == tok.decode(ids)
    assert generate(model, tok, "Once upon", 40, top_k=1, seed=3) == tok.decode(ids)
    assert generate(model, tok, "Once upon", 0) == "Once upon"


def test_greedy_equals_transformers_generate(tmp_path):
    tok = BPETokenizer.train("one and two and three make six " * 9, 280)
    torch.manual_seed(0)
    model = GPT(GPTConfig.gpt2(tok.vocab_size, n_layer=2, n_head=2, n_embd=32, block_size=64, embedding_std=0.5))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.4)
    tg.save(tmp_path, model, tok)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([tok.encode("one and two")])
    for penalty in 1.0, 1.5:
        found = theirs.generate(
            ids, max_new_tokens=30, do_sample=False, repetition_penalty=penalty, eos_token_id=None, pad_token_id=0
        )
        text = generate(model, tok, "one and two", 30, temperature=0, repetition_penalty=penalty)
        assert text == tok.decode(found[0].tolist())


def test_a_seed_reproduces_a_row_whatever_the_batch():
    model, tok = new_model(), FourNames()
    alone = generate(model, tok, "Once", 30, seed=5)
    assert alone == generate(model, tok, "Once", 30, seed=5) == generate(model, tok, ["Once"], 30, seed=5)[0]
    longer = "a longer prompt"
    batch = generate(model, tok, ["Once", longer, "Once", "x", "Once"], 30, seed=5)
    assert [batch[0], batch[2], batch[4]] == [generate(model, tok, "Once", 30, seed=5 + k) for k in range(3)]
    assert batch[1] == generate(model, tok, [longer], 30, seed=5)[0] == generate(model, tok, longer, 30, seed=5)
    assert generate(model, tok, ["x", longer, "Once"], 30, seed=5) == [batch[3], batch[1], batch[0]]
    assert len(set(batch)) == 5 and generate(model, tok, "Once", 30, seed=6) != alone
    assert generate(model, tok, [], 30) == []


def test_fewer_tokens_are_the_beginning_of_more():
    model, tok = new_model(), CharTokenizer([chr(i) for i in range(65, 91)])
    long = generate(model, tok, "ONCE", 50, seed=2)
    assert [generate(model, tok, "ONCE", n, seed=2) for n in (0, 1, 20)] == [long[:4], long[:5], long[:24]]
    assert len(long) == 54 and set(long) <= set(tok.ids)  # though the model knows 256 tokens


def test_no_seed_is_another_one_each_time_and_no_state_is_touched():
    model, tok = new_model(), FourNames()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert len({generate(model, tok, "Once", 20) for _ in range(4)}) == 4
    assert torch.get_rng_state().equal(before)


def test_equal_prompts_are_continued_independently():
    tok, n = CharTokenizer("abcdefgh"), 3000
    model = new_model(8, n_layer=1)
    with torch.no_grad():
        probs = model(torch.tensor([tok.encode("ab")]))[0, -1].div(2).softmax(-1)
    texts = generate(model, tok, ["ab"] * n, 1, temperature=2.0, seed=0)
    counts = torch.tensor([tok.encode(text)[-1] for text in texts]).bincount(minlength=8)
    assert chi_squared(counts, probs) < 1
    assert chi_squared(counts, torch.ones(8)) > 1


def test_it_writes_on_when_the_window_is_full():
    model, tok = new_model(block_size=16), FourNames()
    found = generate(model, tok, ["Once upon a time", "No"], 40, seed=4, stop="\0\0\0")
    assert found == [generate(model, tok, prompt, 40, seed=4) for prompt in ("Once upon a time", "No")]
    long = generate(model, tok, "a prompt that is longer than the window", 20, temperature=0)
    assert long.startswith("a prompt that is longer than the window")


def test_the_end_token_comes_first_and_ends_a_text():
    tok = BPETokenizer.train("a b c " * 50, 260, ["<|end|>"])
    model, end, (a, b) = new_model(tok.vocab_size), 259, tok.encode("ab")
    read = []
    with mock.patch("tinygpt.sample.Decoder", side_effect=lambda model, rows, **how: read.append([*rows]) or 1 / 0):
        with contextlib.suppress(ZeroDivisionError):
            generate(model, tok, ["", "ab"], 5)
    assert read == [[[end], [end, a, b]]]
    with scripted([a, b, end, a, a], [b, b, b, b, b]):
        assert generate(model, tok, ["", "a"], 5) == ["ab", "abbbbb"]
    with scripted([end, a]):
        assert list(stream(model, tok, "a", 5)) == []
    other = BPETokenizer.train("a b c " * 50, 260, ["<|endoftext|>"])
    with scripted([a, 259, b]):
        assert generate(model, other, "b", 5) == "ba"
        with pytest.raises(ValueError, match="prompt is empty"):
            generate(model, other, "", 5)


def test_all_settings_reach_the_sampler():
    model, tok = new_model(), FourNames()
    names = ["temperature", "top_k", "top_p", "min_p", "repetition_penalty"]
    given_ = dict(zip(names, [0.7, 5, 0.9, 0.1, 1.3]))
    with mock.patch("tinygpt.sample.Sampler", wraps=Sampler) as spy:
        text = generate(model, tok, "Once", 20, **given_, seed=1)
        assert "Once" + "".join(stream(model, tok, "Once", 20, **given_, seed=1)) == text
    assert [call.args for call in spy.call_args_list] == [tuple(given_.values())] * 2
    assert text != generate(model, tok, "Once", 20, seed=1)
    here, there = (inspect.signature(what).parameters for what in (generate, stream))
    assert list(here) == list(there) and [p.default for p in here.values()] == [p.default for p in there.values()]


def test_the_precision_is_passed_on():
    with mock.patch("tinygpt.sample.Decoder", side_effect=ArithmeticError) as made:
        for write in generate, lambda *args, **how: list(stream(*args, **how)):
            with contextlib.suppress(ArithmeticError):
                write(new_model(), FourNames(), "a", dtype="bfloat16")
    assert [call.kwargs for call in made.call_args_list] == [{"dtype": "bfloat16", "compile": False}] * 2


# Stop strings


def test_compilation_is_passed_on_and_changes_no_text(monkeypatch):
    compile, calls = torch.compile, []
    monkeypatch.setattr(
        torch, "compile", lambda module, **options: calls.append(module) or compile(module, backend="eager", **options)
    )
    model, tok = new_model(), CharTokenizer(map(chr, range(256)))
    plain = [generate(model, tok, "abc", 12, seed=1), "abc" + "".join(stream(model, tok, "abc", 12, seed=1))]
    assert not calls
    compiled = generate(model, tok, "abc", 12, seed=1, compile=True)
    streamed = "abc" + "".join(stream(model, tok, "abc", 12, seed=1, compile=True))
    assert [compiled, streamed] == plain and len(calls) == 2



def cut(text: str, stops: list[str]) -> str:
    """The text before the stop string that is complete first (of those that end together, the longest)."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return text


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=5), max_size=3),
)
def test_stop_strings_are_found_across_tokens(words, stops):
    tok = Chunks([word.encode() for word in words])
    tok.encode = lambda text: [0]  # the prompt is not searched
    model, ids = no_model(len(words)), list(range(len(words)))
    with scripted(ids):
        found = generate(model, tok, "aabbab", len(ids), stop=stops)
        got = list(stream(model, tok, "aabbab", len(ids), stop=tuple(stops)))
    assert found == "aabbab" + cut("".join(words), stops) == "aabbab" + "".join(got)


def test_one_stop_string_may_be_given_by_itself():
    tok = FourNames()
    with scripted(tok.encode("one two")):
        assert generate(new_model(), tok, "two ", 7, stop="two") == "two one "
        assert generate(new_model(), tok, "x", 7, stop=["none", "e t"]) == "xon"


def test_writing_ends_at_a_stop_string():
    tok, asked = FourNames(), []
    with scripted(tok.encode("one. two. three."), tok.encode("no stop, so on")):
        texts = generate(new_model(), tok, ["a", "b"], 14, stop=".")
        assert texts == ["aone", "bno stop, so on"]
    with scripted(tok.encode("one. two.")), mock.patch("tinygpt.sample.draw", wraps=draw) as drawing:
        assert list(stream(new_model(), tok, "a", 50, stop=".")) == ["o", "n", "e"]
        asked.append(drawing.call_count)
    assert asked == [4]


# Pieces of text


def check_stream(chunks: list[bytes]):
    """Stream these tokens: in the end it is their text, and until then as much of it as is certain."""
    tok = Chunks([b"?", *chunks])
    tok.encode = lambda text: [0]
    model, ids = no_model(len(tok.tokens)), list(range(1, len(tok.tokens)))
    whole = b"".join(chunks).decode(errors="replace")
    with scripted(ids):
        assert generate(model, tok, "?", len(ids)) == "?" + whole
        assert "".join(stream(model, tok, "?", len(ids))) == whole
    text, got = pieces.Pieces(tok, [0]), ""
    for n, id in enumerate(ids, start=1):
        got += text.add(id)
        now = b"".join(chunks[:n]).decode(errors="replace")
        assert whole.startswith(got) and now.startswith(got)
        assert got == now or set(now[len(got) :]) == {"\ufffd"} and len(now) - len(got) <= 3
    assert got + text.finish() == whole and tok.most <= 10


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=5), max_size=20))
def test_any_bytes_are_streamed_as_their_text(chunks):
    check_stream(chunks)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "é", "€", "😀", "\ufffd", b"\xf0", b"\x9f", b"\x80", b"\xc3\xc3"]), max_size=30),
    st.data(),
)
def test_no_character_is_cut(parts, data):
    text = b"".join(part if isinstance(part, bytes) else part.encode() for part in parts)
    chunks = []
    while text:
        n = data.draw(st.integers(1, 4))
        chunks, text = [*chunks, text[:n]], text[n:]
    check_stream(chunks)


@pytest.mark.parametrize("cycle", [b"\xf0\x9f\x98", b"\xf0\x9f\x98\x80", b"\x80", b"\xe2\x82\xf0", b"\xc3"])
def test_many_half_characters(cycle):
    whole = cycle * 7
    for n in 1, 2, 3, 4, 5:
        for first in range(n):
            check_stream([whole[max(at, 0) : at + n] for at in range(-first, len(whole), n)])


def test_a_character_comes_as_soon_as_it_is_complete():
    tok = FourNames()
    with scripted(tok.encode("a😀é.")):
        assert list(stream(new_model(), tok, "x", 8)) == ["a", "😀", "é", "."]
    with scripted([0xF0, 0x9F]):
        assert list(stream(new_model(), tok, "x", 2)) == ["\ufffd"]
    with scripted(tok.encode("😀!")):  # after a prompt that ends in what looks like half a character
        assert list(stream(new_model(), tok, "\ufffd\ufffd", 5)) == ["😀", "!"]


def test_tokenizers_that_show_each_byte_of_half_a_character():
    class ByByte(FourNames):
        def decode(self, ids):
            try:
                return bytes(ids).decode()
            except UnicodeDecodeError as error:
                n = error.start
                return bytes(ids[:n]).decode() + "\ufffd" + self.decode(ids[n + 1 :])

    tok = ByByte()
    with scripted(tok.encode("a😀é€.")):
        assert list(stream(new_model(), tok, "x", 11)) == ["a", "😀", "é", "€", "."]


def test_tokenizers_that_drop_the_first_space():
    class Words(Chunks):
        def decode(self, ids):
            return super().decode(ids).removeprefix(" ")

    tok = Words([b" one", b" two", b"s", b" three"])
    tok.encode = lambda text: [0]
    model = no_model(4)
    with scripted([1, 2, 3] * 6):
        assert list(stream(model, tok, "one", 18)) == [" two", "s", " three"] * 6


# The consumer


def test_the_model_is_in_its_mode_whenever_the_consumer_is_at_work():
    model, tok = new_model(dropout=0.5), FourNames()
    for training in True, False:
        model.train(training)
        wanted = generate(model, tok, "Once", 10, seed=1)
        got = stream(model, tok, "Once", 10, seed=1)
        first = next(got)
        assert model.training == training and torch.is_grad_enabled()
        got.close()
        assert model.training == training and list(got) == [] and wanted.startswith("Once" + first)
        assert "Once" + "".join(stream(model.eval(), tok, "Once", 10, seed=1)) == wanted
    modes = []

    class Spy(Decoder):
        def __init__(self, model, *args, **how):
            modes.append((model.training, torch.is_grad_enabled()))
            super().__init__(model, *args, **how)

        def append(self, ids):
            modes.append((model.training, torch.is_grad_enabled()))
            super().append(ids)

    with mock.patch("tinygpt.sample.Decoder", Spy):
        generate(model.train(), tok, "Once", 3)
    assert modes == [(False, False)] * 3 and model.training


def test_nothing_is_computed_before_or_after_it_is_asked_for():
    tok = CharTokenizer("abcdefgh")
    with mock.patch("tinygpt.sample.draw", wraps=draw) as drawing:
        got = stream(new_model(8), tok, "abc", 100)
        assert drawing.call_count == 0
        assert len(next(got)) == 1 and drawing.call_count == 1
        assert len(next(got)) == 1 and drawing.call_count == 2
        got.close()
        assert drawing.call_count == 2


def test_an_error_of_the_model_leaves_it_in_its_mode():
    model = new_model().train()
    torch.nn.init.constant_(model.norm.weight, math.nan)
    with pytest.raises(ValueError, match="logit of row 0 is nan"):
        generate(model, FourNames(), "Once", 5)
    assert model.training


def test_two_streams_at_once_do_not_meet():
    model, tok = new_model(), FourNames()
    wanted = [generate(model, tok, "Once", 12, seed=seed) for seed in (1, 2)]
    both = zip(*(stream(model, CharTokenizer([chr(i) for i in range(256)]), "Once", 12, seed=seed) for seed in (1, 2)))
    found = ["Once" + "".join(text) for text in zip(*both)]
    assert found == [
        generate(model, CharTokenizer([chr(i) for i in range(256)]), "Once", 12, seed=seed) for seed in (1, 2)
    ]
    assert len(set(wanted)) == 2


# Beam search


def enumerate_all(model, ids, n, end):
    """Every continuation by n tokens, or fewer up to the end token, with its log-probability."""
    found, open_ = [], [(list(ids), 0.0)]
    for step in range(n):
        grown = []
        for row, score in open_:
            logp = model(torch.tensor([row]))[0, -1].double().log_softmax(-1).tolist()
            grown += [(row + [id], score + logp[id]) for id in range(len(logp))]
        found += [beam for beam in grown if beam[0][-1] == end or step == n - 1]
        open_ = [beam for beam in grown if beam[0][-1] != end]
    return sorted(found, key=lambda beam: -beam[1])


@pytest.mark.parametrize("end", [None, 2])
@torch.no_grad()
def test_beam_search_equals_enumeration_when_it_is_wide_enough(end):
    for seed in range(3):
        model = new_model(4, seed).train()
        wanted = enumerate_all(model, [1, 3], 4, end)
        found = beam_search(model, [1, 3], 4**4, 4, end)
        assert [row for row, _ in found] == [row for row, _ in wanted] and model.training
        assert [score for _, score in found] == pytest.approx([score for _, score in wanted], abs=1e-5)
        assert math.fsum(math.exp(score) for _, score in found) == pytest.approx(1, abs=1e-5)
        scores = {tuple(row): score for row, score in wanted}
        narrow = beam_search(model, [1, 3], 5, 4, end)
        assert len(narrow) == 5 and [score for _, score in narrow] == sorted([score for _, score in narrow])[::-1]
        assert all(score == pytest.approx(scores[tuple(row)], abs=1e-5) for row, score in narrow)


@torch.no_grad()
def test_narrow_beams():
    model = new_model(6, 1)
    greedy = [0]
    for _ in range(8):
        greedy.append(model(torch.tensor([greedy]))[0, -1].argmax().item())
    assert beam_search(model, [0], 1, 8)[0][0] == greedy
    scores = [beam_search(model, [0], n, 8)[0][1] for n in (1, 200)]
    assert scores[1] > scores[0]  # greedy does not find the most probable text
    assert beam_search(model, [0], 3, 1) == enumerate_all(model, [0], 1, None)[:3]
    small = new_model(6, 1, block_size=4)
    assert len(beam_search(small, [0, 1, 2], 2, 6)[0][0]) == 9  # the window moves on


# Mistakes


def mistakes():
    model, tok, ended = new_model(), FourNames(), tg.the_tokenizer()
    return {
        "an empty prompt": (lambda w: w(model, tok, ""), "the prompt is empty.*<|end|>"),
        "a number as prompt": (lambda w: w(model, tok, 5), "prompt=5 should be a text"),
        "bytes": (lambda w: w(model, tok, b"Once"), "prompt=b'Once' should be a text"),
        "ids": (lambda w: w(model, tok, [1, 2]), r"prompt=.*\[1, 2\].* should be a text"),
        "a larger tokenizer": (lambda w: w(model, ended, "Once"), "2048 tokens, and the model knows 256"),
        "swapped": (lambda w: w(ended, model, "Once"), "expected a model, not a BPETokenizer"),
        "no tokenizer": (lambda w: w(model, None, "Once"), "expected a tokenizer, not a NoneType"),
        "no room": (lambda w: w(model, tok, "a", -1), "max_new_tokens=-1 should be a whole number from 0"),
        "half a token": (lambda w: w(model, tok, "a", 1.5), "max_new_tokens=1.5 should"),
        "seed -1": (lambda w: w(model, tok, "a", seed=-1), "seed=-1 should be a whole number"),
        "a dtype": (lambda w: w(model, tok, "a", dtype=torch.bfloat16), "dtype=torch.bfloat16 should be 'float32', "),
        "empty stop": (lambda w: w(model, tok, "a", stop=""), "stop='' should be a text or a list of texts, none"),
        "an empty one": (lambda w: w(model, tok, "a", stop=["b", ""]), "stop=.* none of them empty"),
        "a number to stop": (lambda w: w(model, tok, "a", stop=[5]), r"stop=\[5\] should"),
        "stop None": (lambda w: w(model, tok, "a", stop=None), "stop=None should"),
        "cold": (lambda w: w(model, tok, "a", temperature=-0.1), "temperature=-0.1 should be a number, 0 or more"),
        "nan": (lambda w: w(model, tok, "a", temperature=math.nan), "temperature=nan should"),
        "too cold": (lambda w: w(model, tok, "a", temperature=1e-40), "temperature=1e-40 .* give 0"),
        "hot": (lambda w: w(model, tok, "a", temperature=INF), "temperature=inf should"),
        "k 0": (lambda w: w(model, tok, "a", top_k=0), "top_k=0 should be a whole number from 1"),
        "k 1.5": (lambda w: w(model, tok, "a", top_k=1.5), "top_k=1.5 should"),
        "p 1.1": (lambda w: w(model, tok, "a", top_p=1.1), "top_p=1.1 should be a number from 0 to 1"),
        "p nan": (lambda w: w(model, tok, "a", top_p=math.nan), "top_p=nan should"),
        "min_p": (lambda w: w(model, tok, "a", min_p=-1), "min_p=-1 should be a number from 0 to 1"),
        "min_p True": (lambda w: w(model, tok, "a", min_p=True), "min_p=True should"),
        "penalty 0": (lambda w: w(model, tok, "a", repetition_penalty=0), "repetition_penalty=0 should be .* above 0"),
        "penalty nan": (lambda w: w(model, tok, "a", repetition_penalty=math.nan), "repetition_penalty=nan should"),
    }


@pytest.mark.parametrize("name", mistakes())
@pytest.mark.parametrize("write", [generate, stream])
def test_mistakes_end_in_a_sentence_at_once(name, write):
    mistake, said = mistakes()[name]
    with pytest.raises(ValueError, match=said):
        mistake(write)


def test_a_stream_is_of_one_text():
    with pytest.raises(ValueError, match=r"prompt=\['a'\] should be a text"):
        stream(new_model(), FourNames(), ["a"])


def test_beams_must_be_some():
    for n_beams, most in (0, 3), (2, 0), (1.5, 3):
        with pytest.raises(ValueError, match="should be a whole number from 1"):
            beam_search(new_model(), [1], n_beams, most)
