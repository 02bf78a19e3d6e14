"""The recorded ladder, and the pictures that are drawn from it."""

import numpy as np
import pytest
from ladder import BUDGETS, RUNGS, SEEDS, Model

from tinygpt import corpus, the_tokenizer
from tinygpt.show.training import (
    ladder,
    on_track_plot,
    recorded_ladder,
    recorded_losses,
    recorded_skills,
)
from tinygpt.world.judging import floor_of
from tinygpt.world.skills import CHANCE

COUNTED = ["uniform", "unigram", "bigram", "trigram", "5-gram"]


@pytest.mark.parametrize("steps, names", BUDGETS.items())
def test_every_rung_is_recorded(steps, names):
    rungs = recorded_ladder(steps)
    assert list(rungs) == [*COUNTED, *names]
    assert [len(losses) for losses in rungs.values()] == [1] * len(COUNTED) + [len(SEEDS)] * len(names)
    assert rungs["uniform"][0] == pytest.approx(np.log(the_tokenizer().vocab_size), abs=1e-3)
    assert min(map(min, rungs.values())) > floor_of(corpus("tales"), the_tokenizer())
    for name, skills in recorded_skills(steps).items():
        assert set(skills) == set(CHANCE) and all(0 <= accuracy <= 1 for accuracy in skills.values()), name


def test_each_rung_pays_in_the_short_budget_and_the_mlp_costs_in_the_long_one():
    medians = [np.median(losses) for losses in recorded_ladder(300).values()][len(COUNTED) :]
    assert medians == sorted(medians, reverse=True)
    longer = recorded_ladder(1000)
    assert min(longer["MLP"]) > max(longer["norms"]) and min(longer["depth"]) > max(longer["depth without MLP"])


def test_the_recorded_losses_are_those_of_the_seeds():
    for name in BUDGETS[300]:
        losses = recorded_losses(name)
        assert losses.shape == (len(SEEDS), 30) and (losses[:, 0] > losses[:, -1]).all()
        assert losses[:, -3:].mean(1) == pytest.approx(recorded_ladder()[name], abs=0.15)


def test_a_rung_adds_what_its_name_says():
    sizes = [sum(p.numel() for p in Model(rung, 100).parameters()) for rung in RUNGS.values()]
    one_layer = 2 * 100 * 128 + 4 * 128**2
    norms, mlp = 2 * 128 + 128 + 2 * 32, 3 * 128 * 336
    block = 4 * 128**2 + 2 * 128 + 2 * 32 + mlp
    whole = one_layer + norms + mlp + block
    assert sizes == [one_layer] * 3 + [one_layer + norms, one_layer + norms + mlp, whole, whole - 2 * mlp]


def test_a_run_is_drawn_on_the_band_of_the_recorded_ones():
    mine = np.repeat(recorded_losses("one head")[1], 10)
    fig = on_track_plot(mine, "one head", floor=0.5)
    (ax,) = fig.axes
    assert ax.lines[0].get_ydata() == pytest.approx(recorded_losses("one head")[1])
    assert list(ax.lines[0].get_xdata()) == list(range(10, 301, 10)) and len(ax.collections) == 1


def test_the_ladder_shows_the_median_and_every_seed():
    fig = ladder({"counted": 2.0, "trained": [1.2, 1.0, 1.1]}, 0.5)
    (ax,) = fig.axes
    assert [bar.get_width() for bar in ax.patches[:2]] == pytest.approx([1.5, 0.6])
    assert list(ax.lines[0].get_xdata()) == [1.2, 1.0, 1.1]
    assert {"  2.00", "  1.10", "the floor: 0.500"} <= {text.get_text() for text in ax.texts}
