"""Benchmarks, each against a library in the same run: python -m tests.bench NAME."""

import datetime
import json
import math
import operator
import os
import platform
import statistics
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from time import perf_counter


def seconds(function) -> float:
    start = perf_counter()
    function()
    return perf_counter() - start


def compare(tasks: dict, rounds: int) -> dict[str, list[float]]:
    "Time each task once in every round, so that a busy machine slows all of them alike."
    times = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            times[name].append(seconds(task))
    for name, took in times.items():
        print(f"{name:32} median {statistics.median(took):8.3f} s   fastest {min(took):8.3f} s")
    return times


def ratio(text: str, above: list[float], below: list[float], most: float | None = None):
    "The median of the ratios, round by round, and whether it is at most as large as the bar."
    ratios = sorted(a / b for a, b in zip(above, below))
    median = statistics.median(ratios)
    print(f"{text:56} {median:8.2f}   ({ratios[0]:.2f} to {ratios[-1]:.2f}){'' if most is None else bar(median, most)}")


def bar(value: float, most: float, unit: str = "") -> str:
    "Whether a value is at most as large as its bar, in words."
    return f"   bar: at most {most:g}{unit}: {'met' if value <= most else 'MISSED'}"


def megabyte() -> str:
    "tinyshakespeare where the reference data is at hand, otherwise Python's manual."
    if folder := os.environ.get("TINYGPT_REFERENCE"):
        return (Path(folder) / "tinyshakespeare.txt").read_text(encoding="utf-8")[:1_000_000]
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())


def tokenizer():
    "Byte pairs: training and cold encoding against Rust's tokenizers, and the naive loop against ours."
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    from tinygpt import GPT2_SPLIT, BPETokenizer

    text, size, byte_level = megabyte(), 4096, pre_tokenizers.ByteLevel(add_prefix_space=False)

    def rust_train():
        rust = tokenizers.Tokenizer(models.BPE())
        rust.pre_tokenizer = byte_level
        rust.train_from_iterator(
            [text], trainers.BpeTrainer(vocab_size=size, initial_alphabet=byte_level.alphabet(), show_progress=False)
        )
        return rust

    ours, rust = BPETokenizer.train(text, size, pattern=GPT2_SPLIT), rust_train()
    assert ours.encode(text) == rust.encode(text).ids, "both must do the same work"
    merged = "".join(map(chr, ours.encode(text)))  # what the naive loop looks at in its last, cheapest merges

    def naive(merges=5):
        symbols = merged
        for new in range(size, size + merges):
            pairs = Counter(map(operator.add, symbols, symbols[1:]))
            symbols = symbols.replace(max(pairs, key=pairs.get), chr(new))

    saved = rust.to_str()
    cold = iter(
        [
            (BPETokenizer(ours.tokens, ours.merges, pattern=GPT2_SPLIT), tokenizers.Tokenizer.from_str(saved))
            for _ in range(9)
        ]
    )
    pair = None

    def ours_encode():
        nonlocal pair
        pair = next(cold)
        pair[0].encode(text)

    times = compare(
        {
            "train, tinygpt": lambda: BPETokenizer.train(text, size, pattern=GPT2_SPLIT),
            "train, tokenizers (Rust)": rust_train,
            "encode cold, tinygpt": ours_encode,
            "encode cold, tokenizers (Rust)": lambda: pair[1].encode(text),
            "the last 5 merges, naive": naive,
        },
        rounds=9,
    )
    ratio(
        f"training {len(text):,} characters, {size} tokens: ours / Rust",
        times["train, tinygpt"],
        times["train, tokenizers (Rust)"],
        most=1,
    )
    ratio(
        "encoding them cold: ours / Rust",
        times["encode cold, tinygpt"],
        times["encode cold, tokenizers (Rust)"],
        most=1,
    )
    whole = [took / 5 * (size - 256) for took in times["the last 5 merges, naive"]]
    ratio("training: naive, if all were as cheap as the last / ours", whole, times["train, tinygpt"])


MEMORY = """
import random, resource, sys, tempfile, tinygpt
rng, letters = random.Random(0), "etaoinshrdlu"
words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(200_000)]
weights = [1 / (i + 10) for i in range(len(words))]
def peak(): return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
    for _ in range(400): file.write(" ".join(rng.choices(words, weights, k=95_000)).replace("e e", "e.\\n") + "\\n")
    size = file.tell() / 1e6
    file.seek(0)
    del weights
    print(f"before: {peak():.0f} MB")
    tok = tinygpt.BPETokenizer.train(file, 4096)
    print(f"trained on a file of {size:.0f} MB: peak {peak():.0f} MB")
    file.seek(0)
    n = sum(1 for _ in tok.encode_iterable(file))
    print(f"encoded it, {n:,} tokens: peak {peak():.0f} MB")
    file.seek(0)
    tinygpt.BPETokenizer.train(file.read(), 4096)
    met = "met" if peak() < 1000 else "MISSED"
    print(f"trained on it as one text: peak {peak():.0f} MB   bar: under 1,000 MB: {met}")
"""


def tokenizer_memory():
    "Peak memory of one process while a tokenizer learns from, and encodes, 200 MB of text."
    subprocess.run([sys.executable, "-c", MEMORY], check=True)


DATA_MEMORY = """
import random, resource, sys, tempfile, time
from pathlib import Path
import tinygpt
from tinygpt.data import Windows
from tinygpt.io.corpus import corpus
from tinygpt.io.tokens import encode_corpus
megabytes, rng, letters = int(sys.argv[1]), random.Random(0), "etaoinshrdlu"
words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(200_000)]
weights = [1 / (i + 10) for i in range(len(words))]
page = lambda: " ".join(rng.choices(words, weights, k=15_000)).replace("e e", "e.\\n") + "\\n"
def peak(who): return resource.getrusage(who).ru_maxrss / 1024
def peaks(): return f"peak of this process {peak(resource.RUSAGE_SELF):4.0f} MB, of its largest helper {peak(resource.RUSAGE_CHILDREN):4.0f} MB"
with tempfile.TemporaryDirectory() as folder:
    with open(f"{folder}/large.txt", "w", encoding="utf-8") as file:
        pages = [page() for _ in range(40)]
        while file.tell() < megabytes * 1e6: file.write(rng.choice(pages))
    tok = tinygpt.BPETokenizer.train(pages[:5], 4096)
    del words, weights, pages
    print(f"{megabytes:5} MB: before {peaks()}")
    start = time.perf_counter()
    tokens = encode_corpus(corpus(f"{folder}/large.txt").train, tok, folder)
    took = time.perf_counter() - start
    print(f"          encoded {len(tokens):,} tokens in {took:.0f} s: {peaks()}")
    windows = Windows(tokens, block_size=256, batch_size=32)
    for step in range(2000): windows[step]
    print(f"          after 2000 batches: {peaks()}")
    print(max(peak(resource.RUSAGE_SELF), peak(resource.RUSAGE_CHILDREN)))
"""


def data_memory():
    "Peak memory while texts of 250 MB, 500 MB and 1 GB are encoded on all cores, and batches drawn from them: it stays flat."
    peaks = []
    for megabytes in 250, 500, 1000:
        command = [sys.executable, "-c", DATA_MEMORY, str(megabytes)]
        *lines, peak = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        print(*lines, sep="\n", flush=True)
        peaks.append(float(peak))
    print(f"peak of the largest text / of the smallest: {peaks[-1] / peaks[0]:.2f}{bar(peaks[-1] / peaks[0], 1.25)}")


def letters():
    "tinyshakespeare, and a tokenizer of its characters."
    from tinygpt import CharTokenizer, corpus

    folder = os.environ.get("TINYGPT_REFERENCE")
    text = corpus(Path(folder) / "tinyshakespeare.txt" if folder else "shakespeare")
    return text, CharTokenizer.train([*text.train, *text.val])


def nano_run(corpus, tok):
    "The steps of nanoGPT's recipe for a CPU, 2000 of 12 x 64 characters, in its own shape; each gives the loss."
    import torch

    from tinygpt import GPT, GPTConfig, Windows, encode_corpus

    torch.manual_seed(0)
    model = GPT(GPTConfig.gpt2(tok.vocab_size, block_size=64, bias=False))
    for name, p in model.named_parameters():
        if p.dim() == 2:  # as it begins
            last = name.endswith(("attention.proj.weight", "mlp.down.weight"))
            torch.nn.init.normal_(p, std=0.02 / math.sqrt(8) if last else 0.02)
    matrices, vectors = [[p for p in model.parameters() if (p.dim() == 2) == two] for two in (True, False)]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    windows = Windows(encode_corpus(corpus.train, tok), 64, 12)
    for step in range(2000):
        cosine = 0.5 * (1 + math.cos(math.pi * max(0, step - 100) / 1900))
        for group in adamw.param_groups:
            group["lr"] = 1e-3 * (step + 1) / 101 if step < 100 else 1e-4 + cosine * 9e-4
        loss = model.loss(*windows[step])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        model.zero_grad()
        yield model, loss.item()


def our_run(corpus, tok, shape: dict, train: dict, zeros: bool = True):
    "The steps of a recipe of ours."
    import torch

    from tinygpt import GPT, GPTConfig, TrainConfig, Windows, encode_corpus
    from tinygpt.training import Run, training_steps

    torch.manual_seed(0)
    model = GPT(GPTConfig.named(**{"name": "modern"} | shape, vocab_size=tok.vocab_size, block_size=64))
    if not zeros:
        for block in model.blocks:
            block.attention.proj.reset_parameters()
            block.mlp.down.reset_parameters()
    config = TrainConfig(**train)
    run = Run(model, Windows(encode_corpus(corpus.train, tok), 64, config.batch_size), config)
    for record in training_steps(run):
        yield model, record.loss


def together(runs: dict) -> dict[str, tuple]:
    "Run all to their ends, a twentieth of each in turn, so that a busy machine slows all alike: seconds and model."
    took, models = dict.fromkeys(runs, 0.0), {}
    for _ in range(20):
        for name, (run, steps) in runs.items():
            start = perf_counter()
            for models[name], _ in islice(run, math.ceil(steps / 20)):
                pass
            took[name] += perf_counter() - start
    return {name: (took[name], models[name]) for name in runs}


def shakespeare():
    "tinyshakespeare by character: nanoGPT's recipe for a CPU against ours, and what each part of ours contributes."
    import yaml

    from tinygpt import count_parameters, encode_corpus, evaluate, validation_batches
    from tinygpt.presets import ASSETS

    text, tok = letters()
    judge = validation_batches(encode_corpus(text.val, tok), 64, 256)
    settings = yaml.safe_load((ASSETS / "configs" / "shakespeare.yaml").read_text())
    train, shape = settings["train"], {k: v for k, v in settings["model"].items() if k not in ("preset", "block_size")}
    rates = ("lr", "embedding_lr", "vector_lr")
    rest = {name: value for name, value in train.items() if name not in rates}
    without = {
        "ours": (shape, train, True),
        "without Muon: AdamW": (shape, rest | {"optimizer": "adamw", "lr": 0.004, "embedding_lr": 0.01}, True),
        "with the usual rates": (shape, rest, True),
        "without zeros to begin with": (shape, train, False),
        "without the modern shape: gpt2": ({"name": "gpt2", "bias": False}, train, True),
        "without the linear end: cosine": (shape, train | {"schedule": "cosine"}, True),
        "with embeddings of std 2": (shape | {"embedding_std": 2.0}, train | {"embedding_lr": 0.05}, True),
    }
    ours = our_run(text, tok, *without.pop("ours"))
    done = together({"nanoGPT": (nano_run(text, tok), 2000), "ours": (ours, train["steps"])})
    print(f"{'':34}{'seconds':>8}{'sooner':>8}{'parameters':>12}{'val loss':>9}")

    def report(name: str, seconds: float, model) -> float:
        loss, n = evaluate(model.eval(), judge), count_parameters(model.config)
        print(f"{name:34}{seconds:8.1f}{done['nanoGPT'][0] / seconds:8.2f}{n:12,}{loss:9.3f}", flush=True)
        return loss

    loss = {name: report(name, seconds, model) for name, (seconds, model) in done.items()}["ours"]
    sooner = done["nanoGPT"][0] / done["ours"][0]
    print(f"ours in {train['steps']} steps: validation loss {loss:.3f}{bar(loss, 1.886)} (what nanoGPT says of its own)")
    print(f"times sooner than nanoGPT: {sooner:.2f}   bar: at least 7: {'met' if sooner >= 7 else 'MISSED'}")
    print("below, each run alone, as many steps, with one part of the recipe changed:")
    for name, how in without.items():
        report(name, *together({name: (our_run(text, tok, *how), train["steps"])})[name])


def tales():
    "The recipe for tales against nanoGPT's CPU recipe, step by step, to estimate its minutes on other machines."
    import torch

    from tinygpt import GPT, GPTConfig, Windows, corpus, encode_corpus, the_tokenizer
    from tinygpt.training import RECIPE, Run, training_steps

    tok, nano = the_tokenizer(), nano_run(*letters())
    torch.manual_seed(RECIPE.seed)
    model = GPT(GPTConfig.named("tiny"))
    windows = Windows(encode_corpus(corpus("tales").train, tok), 256, RECIPE.batch_size)
    ours = training_steps(Run(model, windows, RECIPE))

    tasks = {
        "the recipe for tales, 25 steps": lambda: list(islice(ours, 25)),
        "nanoGPT's recipe, 25 steps": lambda: list(islice(nano, 25)),
    }
    above, below = compare(tasks, rounds=20).values()
    ratio("a step of the recipe / a step of nanoGPT's", above, below)
    there = 31e-3 * statistics.median(a / b for a, b in zip(above, below)) * RECIPE.steps
    where = f"where nanoGPT's step takes 31 ms, {RECIPE.steps:,} steps without evaluation take {there:.0f} s"
    print(where + bar(there, 120, " s"))


def step():
    "A training step of both shapes against the same model in transformers: forward, backward and AdamW, on the CPU."
    import tempfile
    import warnings

    import torch
    import transformers

    from tinygpt import GPT, GPTConfig, save

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name, length in ("modern", 256), ("gpt2", 256), ("modern", 64), ("gpt2", 64):
        torch.manual_seed(0)
        ours = GPT(GPTConfig.named(name, vocab_size=1024, block_size=length))
        with tempfile.TemporaryDirectory() as folder:
            save(folder, ours)
            theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
        theirs.train()
        ids, targets = torch.randint(1024, (2, 2048 // length, length))
        losses = {
            "tinygpt": (ours, lambda: ours.loss(ids, targets)),
            "transformers": (theirs, lambda: theirs(ids, labels=targets, shift_labels=targets).loss),
        }
        first = [loss().item() for _, loss in losses.values()]
        assert abs(first[0] - first[1]) < 1e-4, "both must do the same work"

        def task(model, loss):
            adam = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)

            def run():
                for _ in range(3):
                    adam.zero_grad()
                    loss().backward()
                    adam.step()

            run()
            return run

        tasks = {f"{name}, {length} tokens, {who}": task(*what) for who, what in losses.items()}
        above, below = compare(tasks, rounds=15).values()
        ratio(f"{name}, {len(ids)} x {length} tokens: ours / transformers", above, below, most=1)


def panel():
    "SamplerPanel: what a move of a slider takes in Python, with the shipped model and a text of 100 tokens."
    from tinygpt import SamplerPanel, load
    from tinygpt.presets import TRAINED

    model, tok = load(TRAINED)
    panel = SamplerPanel(model, tok, max_new_tokens=100, compare={}, written=True)
    panel.receive({"do": "look", "with": [0, 60]})
    print("two columns, each with its source; from a message of the browser to the state that is sent to it")
    for slider in panel.sliders:

        def move(value):
            panel.receive({"do": "change", "with": [0, slider["name"], value]})
            json.dumps(panel.state())

        move(slider["values"][0])
        took = [1000 * seconds(lambda: move(value)) for value in slider["values"]]
        median, slowest = statistics.median(took), max(took)
        print(f"{slider['label']:20} median {median:6.1f} ms   slowest {slowest:6.1f} ms{bar(slowest, 100, ' ms')}")
    start = 1000 * seconds(lambda: (panel.receive({"do": "change", "with": [None, "seed", 1]}), panel.state()))
    print(f"{'another text':20}        {start:6.1f} ms, for which the model runs")


def playground():
    "The playground: tokens a second that the shipped model writes in a page of headless Chromium."
    import shutil
    import threading

    from playwright.sync_api import sync_playwright

    from tinygpt.cli.play import Server, files_to_serve

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with Server(files_to_serve(None), 0) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page, rates = browser.new_page(), []
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.locator(".row:visible").first.wait_for()
        page.get_by_label("tokens a second").press("End")
        for seed in range(9):
            page.get_by_label("seed", exact=True).fill(str(seed))
            page.get_by_role("button", name="Write", exact=True).click()
            page.locator(".status", has_text="a second").wait_for()
            written, rate = map(int, page.get_by_role("status").inner_text().replace("tokens,", "").split()[:2])
            rates.append(rate)
            print(f"{written:4} tokens, {rate:5} a second")
        browser.close()
        server.shutdown()
    median = statistics.median(rates)
    print(f"median {median:g} tokens a second   bar: at least 200: {'met' if median >= 200 else 'MISSED'}")


def chapters():
    "The whole course, chapter by chapter, as a learner runs it; bars: 60 s each, 14 and 15 100 s, 10 200 s, all 14 min."
    import nbformat
    from nbclient import NotebookClient

    times = {}
    for path in sorted((Path(__file__).parents[1] / "nbs").glob("*.ipynb")):
        client = NotebookClient(
            nbformat.read(path, as_version=4), timeout=None, resources={"metadata": {"path": path.parent}}
        )
        times[path.stem] = seconds(client.execute)
        most = {"10": 200, "14": 100, "15": 100}.get(path.name[:2], 60)
        print(f"{path.stem:14} {times[path.stem]:6.1f} s   {bar(times[path.stem], most, ' s')}", flush=True)
    total = sum(times.values())
    print(f"{'all':14} {total:6.1f} s   {bar(total, 14 * 60, ' s')}")


if __name__ == "__main__":
    benches = {
        f.__name__.replace("_", "-"): f
        for f in (tokenizer, tokenizer_memory, data_memory, shakespeare, tales, step, panel, playground, chapters)
    }
    if len(sys.argv) != 2 or sys.argv[1] not in benches:
        sys.exit(
            "python -m tests.bench NAME, where NAME is one of\n"
            + "\n".join(f"  {n:18} {f.__doc__}" for n, f in benches.items())
        )
    libraries = ", ".join(f"{name} {version(name)}" for name in ("tokenizers", "regex", "torch", "transformers"))
    print(
        f"{datetime.date.today()}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, {libraries}\n"
    )
    benches[sys.argv[1]]()
