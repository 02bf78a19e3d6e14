"""Puts an attention explorer of the small model that comes with the package on the first page."""

import tinygpt as tg
from tinygpt.presets import TRAINED

TALE, LAST = tg.tale(37), "Jonas held up the yellow"  # the tale, and the words after which it breaks off


def fill(app, docname: str, source: list[str]) -> None:
    """Replace <!-- explorer -->."""
    if "<!-- explorer -->" in source[0]:
        explorer = tg.explore(*tg.load(TRAINED), TALE[: TALE.index(LAST) + len(LAST)])
        source[0] = source[0].replace("<!-- explorer -->", f"`````{{raw}} html\n{explorer.html}\n`````")


def setup(app) -> None:
    app.connect("source-read", fill)
