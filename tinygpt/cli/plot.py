"""tinygpt plot: draw the losses of runs."""

import os
import sys
from pathlib import Path
import tinygpt as tg
from tinygpt.cli.settings import COMMAND_FILE, UsageError, settings_of_run
from tinygpt.io.atomic import atomic_write
from tinygpt.io.checkpoints import load_tokenizer
from tinygpt.io.reading import read_bytes
from tinygpt.io.runs import read_log
from tinygpt.show.progress import printable
from tinygpt.show.training import training_plot
from tinygpt.world.judging import floor_of

def common_floor(folders: list[Path]) -> float | None:
    "The entropy floor, if it is known and all runs have the same text and tokenizer."
    if not all((folder / name).is_file() for folder in folders for name in (COMMAND_FILE, "tokenizer.json")):
        return None
    texts = {settings_of_run(folder)["text"] for folder in folders}
    tokenizers = {read_bytes(folder / "tokenizer.json") for folder in folders}
    if len(texts) > 1 or len(tokenizers) > 1 or not texts <= {"tales", "chats"}:  # no other text has a known floor
        return None
    return floor_of(tg.corpus(texts.pop()), load_tokenizer(folders[0]))

def plot(
    runs: list[str],  # folders of runs
    *,
    out: str = "plot.png",  # a PNG, SVG or PDF file, or a folder for plot.png
):
    "Draw the losses of runs into one picture."
    import matplotlib.pyplot as plt
    plt.switch_backend("Agg")  # opens no window
    folders, logs, file = {name: Path(name).expanduser() for name in runs}, {}, Path(out).expanduser()
    if file.is_dir() or out.endswith(os.sep):
        file = file / "plot.png"
    if not file.suffix:
        raise UsageError(f"--out {out} should end in .png, .svg or .pdf, or name a folder that exists")
    others = [name for name, folder in folders.items() if not (folder / "log.csv").is_file()]
    for name in others:
        if len(others) == len(folders) or not folders[name].is_dir():
            raise ValueError(f"{name} is not the folder of a run: it has no log.csv")
    if others:  # such as that of a tokenizer, in runs/*
        print(f"tinygpt: left out, since they have no log.csv: {printable(', '.join(others))}", file=sys.stderr)
    folders = {name: folder for name, folder in folders.items() if name not in others}
    for name, folder in folders.items():
        logs[name] = read_log(folder)
        if not logs[name]:
            raise ValueError(f"the run in {name} has not made a step yet")
    with plt.style.context("tinygpt.assets.course"):
        fig = training_plot(logs, common_floor(list(folders.values())))
        with atomic_write(file) as draft:
            fig.savefig(draft, bbox_inches="tight", format=file.suffix[1:])
    plt.close(fig)
    print(printable(file))
