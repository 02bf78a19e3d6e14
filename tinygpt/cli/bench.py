"""tinygpt bench: measure the speed of a training step."""

import sys
import time
from collections.abc import Callable
from typing import Literal

import torch

import tinygpt as tg
from tinygpt.cli.evaluate import print_table
from tinygpt.cli.options import Device, UsageError, pick_device
from tinygpt.presets import SIZES

PEAKS = {"B200": 2250, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362,
         "RTX 4090": 165}  # TFLOP/s in bfloat16, as published
ROWS = ("", "tokens per second", "milliseconds per step", "peak memory", "of a matrix product", "of the published peak")

def median_seconds(call: Callable, device: str, seconds: float) -> float:
    "The median time of a call, made at least three times and for this long, after one to warm up."
    times = []
    while len(times) < 4 or sum(times) < seconds:
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[len(times) // 2 - 1]

def training_step(config: tg.GPTConfig, length: int, device: str, dtype: torch.dtype, batch_size: int) -> Callable:
    "A function that makes a training step on random token ids."
    torch.manual_seed(0)
    model = tg.GPT(config).to(device)
    ids = torch.randint(config.vocab_size, (batch_size, length + 1), device=device)
    optimizers = tg.build_optimizers(model)

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model.loss(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()

    return step

def peak_memory(device: str) -> str:
    "The most memory that was in use so far."
    if device == "cuda":
        return f"{torch.cuda.max_memory_allocated() / 1e6:,.0f} MB"
    try:
        import resource
    except ImportError:  # on Windows
        return "unknown"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6:,.0f} MB"

def measure(config: tg.GPTConfig, length: int, device: str, dtype: torch.dtype, batch_size: int) -> list[str]:
    "The measurements of one device, in the order of ROWS."
    seconds = median_seconds(training_step(config, length, device, dtype, batch_size), device, 1.5)
    memory, flops = peak_memory(device), 3 * tg.count_flops(config, length, batch_size) / seconds
    n = 8192 if device == "cuda" else 1024
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    matmul_flops = 2 * n**3 / median_seconds(lambda: a @ b, device, 0.3)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    peaks = [1e12 * peak for part, peak in PEAKS.items() if part in name and dtype == torch.bfloat16]
    return [name, f"{batch_size * length / seconds:,.0f}", f"{1000 * seconds:,.1f}", memory,
            f"{flops / matmul_flops:.0%}", f"{flops / peaks[0]:.0%}" if peaks else "-"]

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
    columns = [measure(config, length, device, getattr(torch, dtype), batch_size) for device in devices]
    print(f"{size}: {tg.count_parameters(config):,} parameters, {batch_size} x {length} tokens per step")
    print_table(zip(ROWS, *columns))
