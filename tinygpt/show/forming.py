"""Training replayed with a slider: attention maps beside the curves of what is measured of them."""

import base64
import io
from collections.abc import Callable, Mapping
from torch import Tensor
from tinygpt.show.pictures import TINTS, Picture, slider

__all__ = ["attention_over_training"]

GREY = "#7b818a"
Curves = Mapping[str, Mapping[int, float]]  # by name, a value at each step

def map_image(weights: Tensor) -> str:
    "The attention weights (T, T) of a head as the address of a small PNG; weak attention is drawn stronger."
    import matplotlib.pyplot as plt
    pixels = weights.new_tensor([43, 140, 196, 0]).div(255).repeat(*weights.shape, 1)
    pixels[..., 3] = weights.sqrt()
    file = io.BytesIO()
    plt.imsave(file, pixels.numpy(), format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

def svg(width: int, height: int, label: str, content: str) -> str:
    "An SVG picture that shrinks with the window."
    return (f'<svg viewBox="0 0 {width} {height}" style="flex:1 1 {width * 2 // 3}px;max-width:{width}px" role="img" '
            f'aria-label="{label}"><g font-size="13" fill="currentColor" font-family="sans-serif">{content}</g></svg>')

def layer_map(layer: int, weights: Tensor) -> str:
    "The map of a layer, to the right of those before it."
    left, square = 5 + 205 * layer, 'y="22" width="190" height="190"'
    return (f'<text x="{left}" y="14">layer {layer}</text>'
            f'<image x="{left}" {square} style="image-rendering:pixelated" href="{map_image(weights)}"/>'
            f'<rect x="{left}" {square} fill="none" stroke="{GREY}" stroke-opacity=".4"/>')

def curve(row: int, name: str, values: Mapping[int, float], step: int, x: Callable, y: Callable) -> str:
    "A curve with a point at this step, and its line of the legend."
    color, points = TINTS[row], " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in values.items())
    return (f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'
            f'<circle cx="{x(step):.1f}" cy="{y(values[step]):.1f}" r="5" fill="{color}"/>'
            f'<rect x="4" y="{164 + 18 * row}" width="10" height="10" fill="{color}"/>'
            f'<text x="20" y="{174 + 18 * row}">{name}: {values[step]:.2f}</text>')

def chart(curves: Curves, step: int) -> str:
    "All curves, and a line at this step."
    last = max(max(values) for values in curves.values())
    x, y = lambda at: 20 + 186 * at / last, lambda value: 140 - 125 * value
    axes = (f'<path d="M20 15V140H206" fill="none" stroke="{GREY}"/>'
            f'<line x1="{x(step):.1f}" x2="{x(step):.1f}" y1="15" y2="140" stroke="{GREY}" stroke-dasharray="4 3"/>'
            '<text x="2" y="20">1</text><text x="2" y="144">0</text>'
            f'<text x="206" y="156" text-anchor="end">step {step}</text>')
    return axes + "".join(curve(row, name, values, step, x, y) for row, (name, values) in enumerate(curves.items()))

def frame(maps: Tensor, curves: Curves, step: int) -> Picture:
    "The maps and the curves at a step."
    words = ", ".join(f"{name} {values[step]:.2f}" for name, values in curves.items())
    drawn = "".join(layer_map(layer, weights) for layer, weights in enumerate(maps))
    left = svg(205 * len(maps) - 5, 216, f"Attention maps at step {step}", drawn)
    right = svg(240, 216, f"Curves over the steps; at step {step}: {words}", chart(curves, step))
    return Picture(f'<div style="display:flex;flex-wrap:wrap;gap:8px">{left}{right}</div>', words)

def attention_over_training(
    maps: Mapping[int, Tensor],  # by step, a head's attention weights in each layer, (L, T, T)
    curves: Curves,  # values from 0 to 1
) -> Picture:
    "A slider over the steps of a training run, in plain HTML: attention maps beside curves."
    frames = [frame(layers, curves, step) for step, layers in maps.items()]
    return slider(frames, [f"step {step}" for step in maps], "training step")
