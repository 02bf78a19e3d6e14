"""Draws the picture of the README and the first page, and prints the tale below it: python docs/readme_picture.py

Both come from the model in tinygpt/assets/trained, so run it again after python -m tests.recipe."""

from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np

from tinygpt import corpus, load
from tinygpt.io.log import read_records
from tinygpt.presets import TRAINED
from tinygpt.show.training import training_plot
from tinygpt.world.judging import floor_of, sample_tales, valid_fraction

plt.style.use("tinygpt.assets.course")
model, tok = load(TRAINED)
records = read_records(TRAINED)
band = np.genfromtxt(TRAINED / "band.csv", delimiter=",", names=True)
fig = training_plot({"training": records}, floor_of(corpus("tales"), tok), band=band)
fig.axes[1].set_ylabel("skill")
fig.savefig(Path(__file__).parent / "_static" / "readme.png", dpi=140)

tales = sample_tales(model, tok, n=100)
print(fill(next(tale for tale in tales if valid_fraction([tale]) == 1), 100), end="\n\n")
print(f"{valid_fraction(tales):.0%} of {len(tales)} tales are valid")
