"""tinygpt plot: draw the losses of runs."""

from pathlib import Path
import tinygpt as tg
from tinygpt.cli.settings import COMMAND_FILE, settings_of_run
from tinygpt.io.reading import readable_errors
from tinygpt.io.checkpoints import load_tokenizer
from tinygpt.io.log import read_records
from tinygpt.show.training import training_plot
from tinygpt.world.judging import floor_of

def common_floor(folders: list[Path]) -> float | None:
    "The entropy floor, if it is known and all runs have the same text and tokenizer."
    if not all((folder / name).is_file() for folder in folders for name in (COMMAND_FILE, "tokenizer.json")):
        return None
    texts = {settings_of_run(folder)["text"] for folder in folders}
    tokenizers = {(folder / "tokenizer.json").read_bytes() for folder in folders}
    if len(texts) > 1 or len(tokenizers) > 1:
        return None
    return floor_of(tg.corpus(texts.pop()), load_tokenizer(folders[0]))

def plot(
    runs: list[str],  # folders of runs
    *,
    out: str = "plot.png",  # a PNG, SVG or PDF file
):
    "Draw the losses of runs into one picture."
    import matplotlib.style
    matplotlib.use("Agg")  # opens no window
    folders, logs, file = [Path(name).expanduser() for name in runs], {}, Path(out).expanduser()
    for name, folder in zip(runs, folders):
        if not (folder / "log.csv").is_file():
            raise ValueError(f"{name} is not the folder of a run: it has no log.csv")
        with readable_errors(folder / "log.csv"):
            logs[name] = read_records(folder)
        if not logs[name]:
            raise ValueError(f"the run in {name} has not made a step yet")
    with matplotlib.style.context("tinygpt.assets.course"):
        fig = training_plot(logs, common_floor(folders))
        file.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(file, bbox_inches="tight")
    print(out)
