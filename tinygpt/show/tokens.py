"""Drawings of tokenization: a text on its way to ids, and the tree of merges that makes a word."""

from collections.abc import Sequence

from tinygpt.show.pictures import TINTS, show, visible

def box(ax, start: float, end: float, y: float, text: str, color: str | None = None, size: float = 10.0):
    "A rounded box from `start` to `end`, with a text in it."
    from matplotlib.patches import FancyBboxPatch
    edge, fill = color or "#7b818a", f"{color}33" if color else "none"
    ax.add_patch(FancyBboxPatch((start + 0.12, y - 0.3), end - start - 0.24, 0.6, facecolor=fill, edgecolor=edge,
                                boxstyle="round,pad=0,rounding_size=0.12"))
    ax.text((start + end) / 2, y, text, ha="center", va="center", size=size)

def printed(token: bytes) -> str:
    "A token as a label: an open box for a space, hexadecimal for half a character."
    return visible(token).replace(" ", "␣").replace("\\x", "")

def text_to_ids(tok, text: str):
    "Draw a text in five rows, from characters to ids; each column is one byte."
    import matplotlib.pyplot as plt
    rows = ["text", "chunks", "bytes", "tokens", "ids"]
    fig, ax = plt.subplots(figsize=(7.2, 2.8))
    for row, name in enumerate(rows):
        ax.text(-0.4, -row, name, ha="right", va="center", weight="bold")
    def spread(pieces, row, label, tinted, size=10.5):
        at = 0
        for i, piece in enumerate(pieces):
            end = at + len(piece if isinstance(piece, bytes) else piece.encode())
            narrow = len(label(i)) > 2 * (end - at)  # three digits in the box of one byte
            box(ax, at, end, -row, label(i), TINTS[i % len(TINTS)] if tinted else None, 7.5 if narrow else size)
            at = end
    chunks, ids, width = tok.split(text), tok.encode(text), len(text.encode())
    tokens = [tok.token_bytes(i) for i in ids]
    at = 0
    for char in text:
        middle, at = at + len(char.encode()) / 2, at + len(char.encode())
        ax.text(middle, 0, char.replace(" ", "␣"), ha="center", va="center", family="monospace", size=12)
    spread(chunks, 1, lambda i: chunks[i].replace(" ", "␣"), True)
    for i, byte in enumerate(text.encode()):
        ax.text(i + 0.5, -2, str(byte), ha="center", va="center", size=9)
    labels = [str(token[0]) if len(token) == 1 and token[0] > 127 else printed(token) for token in tokens]
    spread(tokens, 3, labels.__getitem__, True, 10)
    spread(tokens, 4, lambda i: str(ids[i]), False, 10)
    ax.set(xlim=(-3, width), ylim=(-4.5, 0.5))
    ax.axis("off")
    show(fig, f"{text!r} in five rows: {len(text)} characters; chunks {' | '.join(chunks)}; {width} bytes; "
              f"tokens {' | '.join(labels)}; ids {', '.join(map(str, ids))}.")

def tree_of(chunk: bytes, tokens: Sequence[bytes], merges: Sequence[tuple[int, int]]) -> list[tuple]:
    "The nodes of the merges that build a chunk: (token, start, end, height, number of the merge, its two parts)."
    now = [(bytes([byte]), i, i + 1, 0, None, ()) for i, byte in enumerate(chunk)]
    nodes = list(now)
    for number, pair in enumerate(merges, start=1):
        left, right = (tokens[id] for id in pair)
        i = 0
        while i < len(now) - 1:
            one, two = now[i : i + 2]
            if (one[0], two[0]) == (left, right):
                node = (left + right, one[1], two[2], max(one[3], two[3]) + 1, number, (one, two))
                now[i : i + 2] = [node]
                nodes.append(node)
            i += 1
    return nodes

def merge_tree(words: Sequence[str], tokens: Sequence[bytes], merges: Sequence[tuple[int, int]]):
    "Draw for each word the tree of merges that builds it from bytes, each with its number in the order of learning."
    import matplotlib.pyplot as plt
    trees = [tree_of(word.encode(), tokens, merges) for word in words]
    top = max(node[3] for nodes in trees for node in nodes)
    widths = [max(len(word.encode()), 2) for word in words]
    titled = len(words) > 1
    size = min(7.2, 0.75 * sum(widths)), 0.75 * (top + 1) + (0.4 if titled else 0.1)
    fig, axes = plt.subplots(1, len(words), figsize=size, width_ratios=widths, squeeze=False)
    told = []
    for ax, word, nodes, width in zip(axes[0], words, trees, widths):
        for token, start, end, height, number, parts in nodes:
            middle, under = (start + end) / 2, f"\n{number}" if number else ""
            for _, left, right, below, *_ in parts:
                ax.plot([middle, (left + right) / 2], [height - 0.3, below + 0.3], color="#7b818a", lw=1, zorder=0)
            half = max(0.42, 0.17 * len(token)) + 0.12
            box(ax, middle - half, middle + half, height, printed(token) + under, TINTS[1 if number else 0], 11)
            if number:
                told.append(f"merge {number} makes {printed(token)}")
        ax.set(xlim=(-0.1, width + 0.1), ylim=(-0.5, top + 0.5), title=word.replace(" ", "␣") if titled else "")
        ax.axis("off")
    show(fig, f"Trees of merges for {' and '.join(words)}: {', '.join(told)}.")
