"""Draws the picture in the README: one sentence while its merges are replayed. python docs/readme_picture.py"""

from pathlib import Path
from pydoc_data.topics import topics

import matplotlib.pyplot as plt

from tinygpt import GPT4_SPLIT
from tinygpt.engine.splitting import count_chunks
from tinygpt.show.pictures import TINTS
from tinygpt.tokenizer import BPETokenizer, learn_merges

plt.style.use("tinygpt.assets.course")
plt.rcParams["svg.hashsalt"] = "tinygpt"
sentence = "The keeper returns the light to the string."
tokens, merges = learn_merges(count_chunks(topics.values(), GPT4_SPLIT), 4096)
sizes = [256, 288, 512, 1024, 4096]
fig, ax = plt.subplots(figsize=(9, 2.6))
for row, size in enumerate(sizes):
    ids, at = BPETokenizer(tokens[:size], merges[: size - 256]).encode(sentence), 0
    for i, id in enumerate(ids):
        width = len(tokens[id])
        ax.barh(-row, width - 0.12, left=at + 0.06, height=0.72, color=TINTS[i % len(TINTS)])
        ax.text(
            at + width / 2,
            -row,
            tokens[id].decode().strip(),
            ha="center",
            va="center",
            family="monospace",
            fontsize=10,
            fontweight="bold",
            color="white",
        )
        at += width
    ax.text(-1, -row, f"{size:,} tokens", ha="right", va="center")
    ax.text(at + 1, -row, f"{len(ids)} ids", ha="left", va="center")
ax.set(xlim=(-9, len(sentence) + 6), ylim=(-len(sizes) + 0.4, 0.6))
ax.axis("off")
fig.savefig(Path(__file__).parent / "_static" / "readme.svg", metadata={"Date": None})
