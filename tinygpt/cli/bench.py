"""tinygpt bench: measure the speed of a training step."""

import sys
from statistics import median
from typing import Literal
import torch
from torch.utils.benchmark import Timer
import tinygpt as tg
from tinygpt.cli.evaluate import print_table
from tinygpt.cli.settings import Device, UsageError, pick_device
from tinygpt.presets import SIZES
from tinygpt.training import Run, training_steps

PEAKS = {"B200": 2250, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362,
         "RTX 4090": 165}  # TFLOP/s in bfloat16, as published

def training_speed(run: Run, seconds: float = 1.5) -> float:
    "Tokens per second: the median over the steps in this time (at least three), after one warm-up step."
    speeds = []
    for record in training_steps(run):
        speeds.append(record.tokens_per_second)
        if record.step > 3 and record.seconds > seconds:
            break
    return median(speeds[1:])

def peak_memory(device: str) -> str:
    "The peak memory use so far."
    if device == "cuda":
        return f"{torch.cuda.max_memory_allocated() / 1e6:,.0f} MB"
    try:
        import resource
    except ImportError:  # on Windows
        return "unknown"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6:,.0f} MB"

def measure(config: tg.GPTConfig, length: int, device: str, dtype: str, batch_size: int) -> dict[str, str]:
    "The measurements on one device, by name."
    tokens = tg.encode_corpus(tg.corpus("tales").train, tg.the_tokenizer())
    tokens.whole_documents = False  # running text, so that every row has the same length
    plan = tg.TrainConfig(steps=1_000_000, batch_size=batch_size, dtype=dtype)  # more than there is time for
    run = Run(tg.GPT(config).to(device), tg.Windows(tokens, length, batch_size), plan)
    speed, memory = training_speed(run), peak_memory(device)
    flops = 3 * tg.count_flops(config, length) / length * speed
    n = 8192 if device == "cuda" else 1024
    a, b = torch.randn(2, n, n, device=device, dtype=getattr(torch, dtype))
    timer = Timer("a @ b", globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
    matmul_flops = 2 * n**3 / timer.blocked_autorange(min_run_time=0.3).median
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    peaks = [1e12 * peak for part, peak in PEAKS.items() if part in name and dtype == "bfloat16"]
    return {"": name, "tokens per second": f"{speed:,.0f}",
            "milliseconds per step": f"{1000 * batch_size * length / speed:,.1f}", "peak memory": memory,
            "of a matrix product": f"{flops / matmul_flops:.0%}",
            "of the published peak": f"{flops / peaks[0]:.0%}" if peaks else "-"}

def bench(
    size: Literal[*SIZES] = "tiny",  # the size of the model
    *,
    device: Device = "auto",  # auto is the CPU and, if there is one, a GPU
    dtype: Literal["float32", "bfloat16"] = "float32",  # of the matrix products
    batch_size: int = 8,  # rows of at most 1024 tokens
):
    "Measure the speed of a training step."
    if batch_size < 1:
        raise UsageError(f"--batch_size {batch_size} should be at least 1")
    config, picked = tg.GPTConfig.named(size), pick_device(device)
    devices = ["cpu", "cuda"] if (device, picked) == ("auto", "cuda") else [picked]
    length = min(config.block_size, 1024)
    columns = [measure(config, length, device, dtype, batch_size) for device in devices]
    print(f"{size}: {tg.count_parameters(config):,} parameters, {batch_size} x {length} tokens per step")
    print_table(zip(columns[0], *(column.values() for column in columns)))
