"""Tokens a second, from naive to fast, beside transformers and beside the bound: python -m tests.writing [cpu | cuda]

Writes data/writing.csv. All ways to write take turns, token by token: while transformers.generate writes a text, a callback
lets each of ours write one token. The bound is the time of reading every matrix once: each, times one vector. On a GPU there
is also a curve over batch sizes."""

import csv
import datetime
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import functional as F

import tinygpt as tg
from tests.speed import machine_name
from tinygpt.cache import Decoder, KVCache
from tinygpt.engine.decoding import TokenStep
from tinygpt.gpu import pick_device, wait_for

ROOT = Path(__file__).parents[1]
COLUMNS = ["date", "machine", "python", "torch", "transformers", "model", "dtype", "batch", "new_tokens", "way",
           "tokens_per_second", "of_bound", "of_transformers"]
PROMPT = [464, 1049, 318, 257]  # any few tokens


class GrowingCache(KVCache):
    "A cache that allocates and copies all keys and values for every token."

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self.key is not None:
            key, value = torch.cat([self.key, key], 2), torch.cat([self.value, value], 2)
        self.key, self.value, self.length = key, value, key.shape[2]
        return key, value


class Naive:
    "Reads the whole text again for every token."

    def __init__(self, model: tg.GPT, prompt: list[int]):
        self.model, self.ids = model, torch.tensor([prompt], device=model.embed.weight.device)

    @torch.no_grad()
    def append(self, ids: Tensor) -> Tensor:
        self.ids = torch.cat([self.ids, ids[:, None]], 1)
        return F.linear(self.model.hidden(self.ids)[:, -1], self.model.unembedding)


class Cached:
    "Reads one token with the model itself, and a cache of this kind."

    def __init__(self, model: tg.GPT, prompt: list[int], kind: type):
        self.model, self.cache = model, [kind(model.config.block_size) for _ in model.blocks]
        self.device = model.embed.weight.device
        with torch.no_grad():
            self.read(torch.tensor([prompt], device=self.device))

    def read(self, ids: Tensor) -> Tensor:
        start = self.cache[0].length
        positions = torch.arange(start, start + ids.shape[1], device=self.device)
        return F.linear(self.model.hidden(ids, positions, cache=self.cache)[:, -1], self.model.unembedding)

    @torch.no_grad()
    def append(self, ids: Tensor) -> Tensor:
        return self.read(ids[:, None])


class Compiled(Decoder):
    "A decoder whose step is compiled before it is timed."

    def __init__(self, model: tg.GPT, prompts: list[list[int]]):
        super().__init__(model, prompts)
        self.token_step = TokenStep(self.model, compile=True)


def ways(model: tg.GPT) -> dict[str, Callable]:
    "The ways to write, from naive to fast."
    return {
        "naive": Naive(model, PROMPT),
        "cached": Cached(model, PROMPT, GrowingCache),
        "preallocated": Cached(model, PROMPT, KVCache),
        "merged matrices": Decoder(model, [PROMPT]),
        "compiled": Compiled(model, [PROMPT]),
    }


def read_every_weight(model: tg.GPT) -> Callable:
    "A function that multiplies every matrix by a vector."
    matrices = [p.data for p in model.parameters() if p.dim() == 2 and p is not getattr(model.position_embedding, "weight", 0)]
    vectors = {p.shape[1]: torch.randn(p.shape[1], dtype=p.dtype, device=p.device) for p in matrices}
    return lambda: [matrix @ vectors[matrix.shape[1]] for matrix in matrices]


def bounds(model: tg.GPT) -> dict[str, Callable]:
    "That function as PyTorch computes it, and compiled; the faster one is the bound."
    plain = read_every_weight(model)
    return {"bound": plain, "compiled bound": torch.compile(plain)}


def timed(times: list[float], device: torch.device, function: Callable):
    "Call a function, and append how long it took."
    wait_for(device)
    start = perf_counter()
    result = function()
    wait_for(device)
    times.append(perf_counter() - start)
    return result


def race(model: tg.GPT, new_tokens: int, device: torch.device) -> dict[str, float]:
    "Seconds per token of each way, in turns; a way that this machine cannot take is left out."
    from transformers import AutoModelForCausalLM

    token, count = torch.tensor([0], device=device), 0
    ours, reading, times = ways(model), bounds(model), {"bound": [], "transformers": []}
    calls = {name: (lambda way=way: way.append(token).argmax(-1)) for name, way in ours.items()} | reading
    for name in list(calls):
        times[name] = []
        try:
            calls[name]()  # compiles
        except Exception as error:  # no compiler, for instance
            print(f"{name} is left out: {str(error).splitlines()[0]}")
            del calls[name], times[name]

    def turn(*_, **__) -> bool:
        "Called by transformers after each of its tokens."
        nonlocal start, count
        wait_for(device)
        times["transformers"].append(perf_counter() - start)
        for name, call in calls.items():
            if name != "naive" or count % 50 == 0:
                timed(times[name], device, call)
            else:
                ours[name].ids = torch.cat([ours[name].ids, token[:, None]], 1)
        count += 1
        start = perf_counter()
        return torch.zeros(1, dtype=torch.bool, device=device)

    with tempfile.TemporaryDirectory() as folder:
        tg.save(folder, model)
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=model.embed.weight.dtype).to(device)
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
    prompt = torch.tensor([PROMPT], device=device)
    theirs.generate(prompt, **options | {"max_new_tokens": 8, "min_new_tokens": 8})
    start = perf_counter()
    theirs.generate(prompt, stopping_criteria=[turn], **options)
    skipped = 8  # the first tokens are slower for everybody
    seconds = {name: median(part[skipped:] or part) if name != "naive" else sum(part) / len(part)
               for name, part in times.items()}
    plain = seconds["bound"]
    seconds["bound"] = min(plain, seconds.pop("compiled bound", plain))
    return {"bound": seconds.pop("bound"), "PyTorch's products": plain} | seconds


def write(rows: list[dict], device: torch.device):
    "Replace the rows of this machine in data/writing.csv that were measured in the same way."
    import transformers

    path = ROOT / "data" / "writing.csv"
    about = {"date": str(datetime.date.today()), "machine": machine_name(device), "python": platform.python_version()}
    about |= {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__, "model": "pico"}
    before = list(csv.DictReader(path.open())) if path.exists() else []
    same = ("machine", "model", "dtype", "batch", "new_tokens")
    new = [{name: str(value) for name, value in (about | row).items()} for row in rows]
    replaced = {tuple(row[name] for name in same) for row in new}
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows([row for row in before if tuple(row[name] for name in same) not in replaced] + new)


def compare(model: tg.GPT, new_tokens: int, device: torch.device):
    "Measure all ways of writing, print them, and write them down."
    dtype, times = str(model.embed.weight.dtype).removeprefix("torch."), race(model, new_tokens, device)
    rows = []
    print(f"\n{new_tokens} new tokens, {dtype}: tokens per second, of the bound, of transformers")
    for name, seconds in times.items():
        of_bound, of_theirs = times["bound"] / seconds, times["transformers"] / seconds
        print(f"  {name:16}{1 / seconds:10.1f}{of_bound:8.0%}{of_theirs:8.2f}", flush=True)
        rows.append({"dtype": dtype, "batch": 1, "new_tokens": new_tokens, "way": name,
                     "tokens_per_second": f"{1 / seconds:.1f}", "of_bound": f"{of_bound:.3f}",
                     "of_transformers": f"{of_theirs:.3f}"})
    write(rows, device)


def batches(model: tg.GPT, device: torch.device, new_tokens: int = 200):
    "Tokens per second of all rows together, over batch sizes."
    for batch in 1, 2, 4, 8, 16, 32, 64:
        decoder, times = Compiled(model, [PROMPT] * batch), []
        ids = torch.zeros(batch, dtype=torch.int64, device=device)
        for _ in range(new_tokens):
            ids = timed(times, device, lambda: decoder.append(ids).argmax(-1))
        speed = batch / median(times[8:])
        print(f"  batch {batch:3}: {speed:10,.0f} tokens per second", flush=True)
        write([{"dtype": "bfloat16", "batch": batch, "new_tokens": new_tokens, "way": "batch",
                "tokens_per_second": f"{speed:.1f}"}], device)


def main(name: str = "auto"):
    device, _ = pick_device(name)
    torch.manual_seed(0)
    model = tg.GPT(tg.GPTConfig.named("pico", vocab_size=50304)).eval().to(device)
    for p in model.parameters():
        if p.dim() == 2:
            torch.nn.init.normal_(p, std=0.02)  # no zeros, which a kernel might skip
    for dtype in torch.float32, torch.bfloat16:
        for new_tokens in 200, 1000:
            compare(model.to(dtype), new_tokens, device)
    if device.type == "cuda":
        batches(model, device)


if __name__ == "__main__":
    main(*sys.argv[1:])
