"""How many tales of the shipped model are possible, by the settings of sampling: python -m tests.sampling

Writes data/sampling.csv: for each setting the share of 400 tales that the grammar can write, how many are different, and the
mean surprisal of the possible ones under the grammar, in nats."""

import csv
import math
from pathlib import Path

import tinygpt as tg
from tinygpt.presets import TRAINED

ROOT = Path(__file__).parents[1]
N, BATCH = 400, 100
SETTINGS = {
    "greedy": {"temperature": 0},
    "as it is": {},
    "temperature 0.5": {"temperature": 0.5},
    "temperature 1.5": {"temperature": 1.5},
    "top-k 50": {"top_k": 50},
    "top-p 0.95": {"top_p": 0.95},
    "min-p 0.05": {"min_p": 0.05},
    "1.5, then min-p 0.05": {"temperature": 1.5, "min_p": 0.05},
    "penalty 1.2": {"repetition_penalty": 1.2},
}


def judged(tales: list[str]) -> dict:
    """The row of one setting."""
    surprisals = [-logp for logp in map(tg.logprob, tales) if logp > -math.inf]
    mean = round(sum(surprisals) / len(surprisals), 1) if surprisals else ""
    return {"possible": round(len(surprisals) / len(tales), 4), "different": len(set(tales)), "surprisal": mean}


def main():
    model, tok = tg.load(TRAINED)
    rows = []
    for name, options in SETTINGS.items():
        tales = [text for seed in range(0, N, BATCH) for text in tg.generate(model, tok, [""] * BATCH, 250, seed=seed, **options)]
        rows.append({"setting": name, "tales": N} | judged(tales))
        print(*rows[-1].values(), flush=True)
    with open(ROOT / "data" / "sampling.csv", "w", newline="") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
