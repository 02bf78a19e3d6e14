"""A map of the course: each chapter's picture, question and reading time, taken from its notebook."""

import base64
import html
import io
import json
import re
from pathlib import Path
from tinygpt.show.pictures import Picture

__all__ = ["course_map"]

PICTURES = {  # the cell that draws the picture to remember
    "01_tokenizer": "whole-picture",
    "02_tales": "small-tree",
    "03_data": "overview-picture",
    "04_baseline": "matrix-picture",
    "05_attention": "learn-map-show",
    "06_positions": "turn-dot-picture",
    "07_block": "stream-picture",
    "08_gpt": "flow-picture",
    "09_optim": "paths-picture",
    "10_training": "recipe-run",
    "11_gpu": "ladder-picture",
    "12_cache": "triangle-picture",
    "13_sample": "temperature-picture",
    "14_inside": "map-picture",
    "15_chat": "packed-picture",
}
WIDTH = 360  # of a picture in pixels; it is shown at about half of that

def picture_of(notebook: dict, cell: str) -> tuple[bytes, str] | None:
    "The picture that a cell has drawn, with its alternative text; None if it has not."
    outputs = [output for found in notebook["cells"] if found["id"] == cell for output in found["outputs"]]
    for output in outputs:
        if png := output.get("data", {}).get("image/png"):
            return base64.b64decode("".join(png)), output["metadata"].get("image/png", {}).get("alt", "")

def smaller(png: bytes) -> str:
    "A picture, WIDTH pixels wide and in few colours, as an address that HTML can hold."
    from PIL import Image
    drawn = Image.open(io.BytesIO(png)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
    image.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.quantize(48, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

def course_map(folder: str | Path = ".") -> Picture:
    "The chapters in a folder: click one to open it."
    cards, lines = [], []
    for name, cell in PICTURES.items():
        path = Path(folder, f"{name}.ipynb")
        if not path.exists():
            continue
        notebook = json.loads(path.read_text("utf-8"))
        text = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
        title, question = re.search(r"^# (.+)\n+> (.+)", text, re.M).groups()
        minutes = re.search(r"\*About (\d+) minutes to read", text)[1]
        drawn = ""
        if found := picture_of(notebook, cell):
            png, alt = found
            drawn = (f'<img src="{smaller(png)}" alt="{html.escape(alt)}" '
                     'style="width:100%;height:100%;object-fit:contain">')
        cards.append(
            f'<a href="{path.name}" style="display:block;color:inherit;text-decoration:none">'
            '<div style="height:130px;background:#fff;border:1px solid #8884;border-radius:6px;padding:6px;'
            f'box-sizing:border-box">{drawn}</div>'
            f'<strong style="text-decoration:underline">{int(name[:2])}. {html.escape(title)}</strong> ({minutes} min)'
            f"<br>{html.escape(question)}</a>"
        )
        lines.append(f"{name[:2]} {title} ({minutes} min): {question}")
    if not cards:
        lines = [f"The other chapters are not in this folder ({Path(folder).resolve()})."]
        cards = [html.escape(lines[0])]
    grid = "display:grid;grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:18px 16px;line-height:1.35"
    return Picture(f'<div style="{grid}">{"".join(cards)}</div>', "\n".join(lines))
