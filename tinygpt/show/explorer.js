// The attention explorer in the browser: in JupyterLab through anywidget, where Python answers questions about the
// next token, and inside plain HTML, which needs no Python. Nothing is asked from another host.

const MOST_NAMED = 4; // tokens in the sentence below the text
const MOST_ARCS = 12;
const MAPS = "All heads: a row for each layer, a column for each head. Choose one.";

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// The weights of one token in one head, as levels from 0 to 255: a function of layer, head and token.
function unpack(data) {
  const levels = Uint8Array.from(atob(data.weights), (char) => char.charCodeAt(0));
  const size = data.tokens.length;
  return (layer, head, token) => {
    const start = ((layer * data.heads + head) * size * (size + 1) + token * (token + 1)) / 2;
    return levels.subarray(start, start + token + 1);
  };
}

function percent(p) {
  return p > 0 && p < 0.005 ? "<1 %" : `${Math.round(100 * p)} %`;
}

// Weights are shown on a scale that is stretched at the low end, so that weak attention is seen.
const shade = (level) => Math.sqrt(level / 255);

function drawMap(canvas, rows) {
  canvas.width = canvas.height = rows.length;
  canvas.style.imageRendering = rows.length < 100 ? "pixelated" : "auto";
  const image = new ImageData(rows.length, rows.length);
  rows.forEach((row, i) => row.forEach((level, j) => {
    image.data.set([43, 140, 196, 20 + 235 * shade(level)], 4 * (i * rows.length + j));
  }));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// In a group with one tab stop, the arrow keys move the focus; `up` is the step of the upper arrow.
function rove(group, parts, up) {
  group.addEventListener("keydown", (event) => {
    const at = parts.indexOf(event.target);
    const places = {
      ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - up, ArrowDown: at + up, Home: 0, End: parts.length - 1,
    };
    if (at < 0 || !(event.key in places)) return;
    event.preventDefault();
    parts[places[event.key]]?.focus();
  });
}

function chooser(label, n) {
  const select = element("select", { ariaLabel: label });
  for (let i = 0; i < n; i++) select.append(element("option", { textContent: i, value: i }));
  return [select, element("label", {}, `${label} `, select)];
}

// The text: its tokens, shaded by what the shown one attends to, and arcs from it. Calls `choose` with a token's place.
function makeText(data, choose, point) {
  const arcs = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  arcs.setAttribute("aria-hidden", "true");
  const tokens = data.tokens.map((text) => element("span", { className: "token", role: "option", tabIndex: -1,
    textContent: text.trimStart() }));
  const root = element("div", { className: "text", role: "listbox", ariaLabel: "tokens" }, arcs);
  tokens.forEach((token, i) => {
    const text = data.tokens[i];
    root.append(text.slice(0, text.length - text.trimStart().length), token);
    if (text.endsWith("⏎")) root.append(element("br"));
    else if (text.includes("·")) root.append(element("wbr"));
    token.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && point(i));
    token.addEventListener("click", () => token.focus());
    token.addEventListener("focus", () => choose(i));
  });
  root.addEventListener("pointerleave", () => point(null));
  rove(root, tokens, 1);

  function place(token, box) {
    const part = token.getClientRects()[0] ?? new DOMRect(); // none while hidden
    return { x: (part.left + part.right) / 2 - box.left, top: part.top - box.top, bottom: part.bottom - box.top };
  }
  function path(from, to) {
    if (from.top - to.top > 4) { // to a line above
      return `M${from.x} ${from.top} C${from.x} ${from.top - 14} ${to.x} ${to.bottom + 14} ${to.x} ${to.bottom}`;
    }
    const height = Math.min(22, 8 + Math.abs(from.x - to.x) / 8);
    return `M${from.x} ${from.top} C${from.x} ${from.top - height} ${to.x} ${to.top - height} ${to.x} ${to.top}`;
  }
  function drawArcs(shown, order, row) {
    const box = root.getBoundingClientRect();
    const from = place(tokens[shown], box);
    arcs.replaceChildren(...order.filter((i) => i < shown && row[i] > 5).slice(0, MOST_ARCS).map((i) => {
      const arc = document.createElementNS(arcs.namespaceURI, "path");
      arc.setAttribute("d", path(from, place(tokens[i], box)));
      arc.style.strokeWidth = 1 + (4 * row[i]) / 255;
      arc.style.opacity = 0.3 + (0.7 * row[i]) / 255;
      return arc;
    }));
  }
  return {
    root,
    show(chosen, shown, order, row) {
      tokens.forEach((token, i) => {
        token.style.setProperty("--shade", i <= shown ? shade(row[i]).toFixed(3) : 0);
        token.classList.toggle("shown", i === shown);
        token.tabIndex = i === chosen ? 0 : -1;
        token.ariaSelected = i === chosen;
      });
      drawArcs(shown, order, row);
    },
  };
}

// A small map of each head, drawn once, when it comes into view; a line in the chosen one is the shown token's row.
function makeGrid(data, weightsOf, choose) {
  const root = element("div", { className: "grid", role: "group", ariaLabel: "all heads" }, element("span"));
  const buttons = [];
  root.style.setProperty("--heads", data.heads);
  for (let head = 0; head < data.heads; head++) root.append(element("span", { textContent: head }));
  for (let layer = 0; layer < data.layers; layer++) {
    root.append(element("span", { textContent: layer }));
    for (let head = 0; head < data.heads; head++) {
      const name = `layer ${layer}, head ${head}`;
      const button = element("button", { type: "button", ariaLabel: name, title: name }, element("canvas"));
      button.addEventListener("click", () => choose(layer, head));
      buttons.push(button);
      root.append(button);
    }
  }
  let pressed;
  rove(root, buttons, data.heads);
  new IntersectionObserver(([entry], observer) => {
    if (!entry.isIntersecting) return;
    observer.disconnect();
    buttons.forEach((button, n) => {
      const rows = data.tokens.map((_, i) => weightsOf(Math.floor(n / data.heads), n % data.heads, i));
      drawMap(button.firstChild, rows);
    });
  }).observe(root);
  return {
    root,
    show(layer, head, token) {
      const chosen = buttons[layer * data.heads + head];
      if (chosen !== pressed) {
        for (const button of buttons) {
          button.ariaPressed = button === chosen;
          button.tabIndex = button === chosen ? 0 : -1;
        }
        pressed = chosen;
      }
      chosen.style.setProperty("--line", (token + 0.5) / data.tokens.length);
    },
  };
}

// A head's strength, and the next token with it. It is there only while Python answers.
function makeStrength(model) {
  const input = element("input", { type: "range", min: 0, max: 2, step: 0.05, value: 1 });
  const output = element("output");
  const label = element("span");
  const caption = element("p");
  const rows = element("ul");
  const late = element("p", { className: "muted", role: "status" });
  const panel = element("div", { hidden: true }, element("label", {}, label, input, output), caption, rows);
  let place; // {layer, head, token}
  let timer;
  function ask() {
    output.value = Number(input.value).toFixed(2);
    const number = (model.get("question").number ?? 0) + 1;
    model.set("question", { ...place, strength: Number(input.value), number });
    model.save_changes();
    clearTimeout(timer);
    timer = setTimeout(() => {
      panel.hidden = true;
      late.textContent = "No answer from the kernel: it is busy, or this cell must be run again.";
    }, 5000);
  }
  function show() {
    const answer = model.get("answer");
    if (answer.number !== model.get("question").number) return;
    clearTimeout(timer);
    panel.hidden = false;
    late.textContent = "";
    const longest = Math.max(...answer.rows.flatMap(([, before, after]) => [before, after]));
    const bar = (kind, p) => {
      const made = element("i", { className: kind });
      made.style.width = `${(100 * p) / longest}%`;
      return made;
    };
    rows.replaceChildren(...answer.rows.map(([name, before, after]) => element("li", {},
      element("span", { className: "name", textContent: name }),
      element("span", { className: "bars" }, bar("before", before), bar("after", after)),
      element("span", { textContent: `${percent(before)} → ${percent(after)}` }))));
  }
  input.addEventListener("input", ask);
  model.on("change:answer", show);
  return {
    root: element("div", { className: "strength" }, panel, late),
    ask(newPlace, name) {
      if (newPlace.layer !== place?.layer || newPlace.head !== place?.head) input.value = 1;
      place = newPlace;
      label.textContent = `strength of layer ${place.layer}, head ${place.head}`;
      caption.textContent = `The next token after ${name}: at strength 1 → at this strength`;
      ask();
    },
    close() {
      clearTimeout(timer);
      model.off("change:answer", show);
    },
  };
}

// Show the explorer in a box, with anywidget's model also the strength of a head. Returns a function that ends it.
function explore(box, data, model) {
  const weightsOf = unpack(data);
  const state = { layer: data.layer, head: data.head, token: data.tokens.length - 1 };
  let pointed = null;
  const nameOf = (i) => `'${data.tokens[i].replace(/^ +| +$/g, "")}'`;
  const [layers, layerLabel] = chooser("layer", data.layers);
  const [heads, headLabel] = chooser("head", data.heads);
  const statement = element("p", { className: "statement", role: "status" });
  const text = makeText(data, (token) => change({ token }), (token) => {
    pointed = token;
    show();
  });
  const grid = makeGrid(data, weightsOf, (layer, head) => change({ layer, head }));
  const strength = model && makeStrength(model);

  function show() {
    const shown = pointed ?? state.token;
    const row = weightsOf(state.layer, state.head, shown);
    const order = [...row.keys()].sort((a, b) => row[b] - row[a]);
    const named = order.filter((i) => row[i] > 2).slice(0, MOST_NAMED);
    const parts = named.map((i) => `${i === shown ? "itself" : nameOf(i)} ${percent(row[i] / 255)}`);
    statement.textContent = `${nameOf(shown)} attends to: ${parts.join(", ")}`;
    layers.value = state.layer;
    heads.value = state.head;
    grid.show(state.layer, state.head, shown);
    text.show(state.token, shown, order, row);
  }
  function change(changed) {
    pointed = null;
    Object.assign(state, changed);
    show();
    strength?.ask({ ...state }, nameOf(state.token));
  }
  layers.addEventListener("change", () => change({ layer: Number(layers.value) }));
  heads.addEventListener("change", () => change({ head: Number(heads.value) }));
  box.addEventListener("focusin", ({ target }) => {
    target.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes its arrow keys
  });
  box.append(
    element("div", { className: "tools" }, layerLabel, headLabel,
      element("span", { className: "muted", textContent: "Point at a token, tap it, or use the arrow keys." })),
    text.root, statement,
    element("p", { className: "muted", textContent: data.note }),
    element("div", { className: "lower" },
      element("div", {}, element("p", { className: "muted", textContent: MAPS }), grid.root),
      ...(strength ? [strength.root] : [])));
  const resized = new ResizeObserver(show);
  resized.observe(text.root);
  change({});
  return () => {
    resized.disconnect();
    strength?.close();
  };
}

// Show the explorer in place of the picture in plain HTML.
function begin(box) {
  box.querySelector(".still").remove();
  explore(box, JSON.parse(box.querySelector('script[type="application/json"]').textContent));
}

export { unpack };
export default {
  render({ model, el }) {
    const box = element("div", { className: "tg-explorer live" });
    el.append(box);
    return explore(box, model.get("data"), model);
  },
};
