// The playground: a run's model writes in this page. Nothing is asked from another host, and opened files stay here.

import { FILES, fetchRun, openRun } from "./run.js";
import { ranked, softmax } from "./sample.js";
import { Writing } from "./writing.js";

const DARKEST = 6; // nats of surprise
const MOST_ROWS = 10;
const steps = (from, to, parts) => Array.from({ length: to - from + 1 }, (_, i) => (from + i) / parts);
const TOP_K = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000];
const SLIDERS = { // label, stops, default; null is off
  temperature: ["temperature", steps(0, 40, 20), 1],
  top_k: ["top-k", [...TOP_K, null], null],
  top_p: ["top-p", [...steps(0, 99, 100), null], null],
  min_p: ["min-p", [null, ...steps(1, 50, 100)], null],
  repetition_penalty: ["repetition penalty", steps(20, 40, 20), 1],
  speed: ["tokens a second", [2, 5, 10, 20, 30, 60, Infinity], 30],
};
const WORDS = {
  temperature: { 0: "0 (greedy)" },
  repetition_penalty: { 1: "1 (off)" },
  speed: { Infinity: "all it can" },
};

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function button(label, action, className = "") {
  const made = element("button", { type: "button", textContent: label, className });
  made.addEventListener("click", action);
  return made;
}

function stopSlider(name, changed) {
  const [label, stops, value] = SLIDERS[name];
  const range = { type: "range", min: 0, max: stops.length - 1, step: 1, value: stops.indexOf(value) };
  const input = element("input", { ...range, ariaLabel: label });
  const word = element("span", { className: "value", ariaHidden: "true" }); // the slider says it
  const show = () => {
    const stop = stops[input.value];
    word.textContent = WORDS[name]?.[stop] ?? (stop === null ? "off" : String(stop));
    input.setAttribute("aria-valuetext", word.textContent);
  };
  input.addEventListener("input", () => (show(), changed()));
  show();
  return {
    row: element("label", { className: "slider" }, element("span", { textContent: label }), input, word),
    get value() {
      return stops[input.value];
    },
  };
}

function percent(p) {
  if (p > 0 && p < 0.0005) return "<0.1 %";
  return `${(100 * p).toFixed(p > 0 && p < 0.0995 ? 1 : 0)} %`;
}

// A token as a short label: a dot for a space, hexadecimal for half a character.
function tokenName(tok, id) {
  let label;
  try {
    label = visible(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(tok.tokens[id]));
  } catch {
    label = [...tok.tokens[id]].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  }
  return (label.length > 14 ? `${label.slice(0, 13)}…` : label).replaceAll(" ", "·");
}

const visible = (text) => text.replaceAll("\r", "␍").replaceAll("\n", "⏎").replaceAll("\t", "⇥");

// In a group with one tab stop, the arrow keys move the focus; Enter or the space bar clicks.
function rove(event) {
  const group = event.target.closest(".roving");
  if (!group) return;
  if (event.target.matches("[role=button]") && ["Enter", " "].includes(event.key)) {
    event.preventDefault();
    event.target.click();
  }
  const parts = [...group.children].filter((part) => !part.hidden);
  const at = parts.indexOf(event.target);
  const [before, after, last] = [at - 1, at + 1, parts.length - 1];
  const places = { ArrowLeft: before, ArrowUp: before, ArrowRight: after, ArrowDown: after, Home: 0, End: last };
  const next = parts[places[event.key]];
  if (event.key in places) event.preventDefault();
  if (!next) return;
  for (const part of parts) part.tabIndex = part === next ? 0 : -1;
  next.focus();
}

const byName = (files) => Object.fromEntries([...files].map((file) => [file.name, file]));

// The files that were dropped; those of a folder, if one was.
async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.());
  const folder = entries.find((entry) => entry?.isDirectory);
  if (!folder) return [...transfer.files];
  const inside = await new Promise((resolve, reject) => folder.createReader().readEntries(resolve, reject));
  const wanted = inside.filter((entry) => FILES.includes(entry.name));
  return Promise.all(wanted.map((entry) => new Promise((resolve, reject) => entry.file(resolve, reject))));
}

const MARKUP = `
  <p class="model"></p>
  <p class="run">
    <label class="open">Open a run of your own
      <input type="file" multiple accept=".json,.safetensors" aria-describedby="playground-files"></label>
    <span id="playground-files" class="muted">or drop its folder here: ${FILES.join(", ")}. The files stay in your
      browser.</span></p>
  <div class="error" role="alert"></div>
  <label>Prompt <textarea rows="2" spellcheck="false"></textarea></label>
  <div class="tools">
    <span class="buttons"></span>
    <label>length <input type="number" name="length" min="1" value="200"></label>
    <label>seed <input type="number" name="seed" min="0" value="0"></label>
    <span class="status muted" role="status"></span></div>
  <div class="text roving" role="group" aria-label="the text, token by token"></div>
  <p class="detail" id="playground-detail"></p>
  <div class="tools">
    <label>layer <select name="layer"></select></label>
    <label>head <select name="head"></select></label>
    <span class="legend"><span><i class="surprise"></i> surprise</span>
      <span><i class="attended"></i> attention of the token under the pointer</span></span></div>
  <div class="halves">
    <fieldset class="sliders"><legend>Sampling</legend></fieldset>
    <fieldset><legend class="caption"></legend>
      <div class="legend"><span><i class="before"></i> the model</span><span><i class="before cut"></i> cut</span>
        <span><i class="after"></i> with these settings</span></div>
      <div class="rows roving" role="group" aria-label="the most probable tokens"></div>
      <p class="rest muted"></p></fieldset></div>`;

class Playground {
  constructor(root) {
    this.root = root;
    root.innerHTML = MARKUP;
    const find = (selector) => root.querySelector(selector);
    for (const name of ["model", "error", "status", "text", "detail", "caption", "rows", "rest"]) {
      this[name] = find(`.${name}`);
    }
    [this.prompt, this.files] = [find("textarea"), find("[type=file]")];
    for (const name of ["length", "seed", "layer", "head"]) this[name] = find(`[name=${name}]`);
    this.prompt.value = root.dataset.prompt ?? "Once upon a time";
    this.go_on = button("Continue", () => this.write(this.writing.tokens.length - this.writing.written));
    this.halt = button("Stop", () => this.stop());
    this.back = button("Show the next token", () => this.select(null));
    find(".buttons").append(
      button("Write", () => this.start(), "write"), this.go_on, this.halt,
      button("Another seed", () => {
        this.seed.value = Math.floor(Math.random() * 10_000);
        this.start();
      }));
    this.sliders = Object.fromEntries(Object.keys(SLIDERS).map((name) => [name, stopSlider(name, () => this.draw())]));
    find(".sliders").append(...Object.values(this.sliders).map((slider) => slider.row));
    this.slots = Array.from({ length: MOST_ROWS + 1 }, () => this.makeRow());
    this.rows.append(...this.slots.map((slot) => slot.root));
    this.rest.after(this.back);
    this.go_on.disabled = this.halt.disabled = this.back.hidden = true;
    [this.selected, this.pointed, this.spans] = [null, null, []]; // indices of tokens, and their elements
    this.listen();
  }

  listen() {
    this.root.addEventListener("keydown", rove);
    this.prompt.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.begin(), 250); // when the typing pauses
    });
    this.files.addEventListener("change", async () => {
      await this.open(openRun(byName(this.files.files)));
      this.files.value = ""; // so that the same files can be opened again
    });
    this.root.addEventListener("dragover", (event) => event.preventDefault());
    this.root.addEventListener("drop", (event) => {
      event.preventDefault();
      this.open(droppedFiles(event.dataTransfer).then((files) => openRun(byName(files))));
    });
    for (const choice of [this.layer, this.head]) choice.addEventListener("change", () => this.shade());
    const at = (event) => event.target.dataset.at && Number(event.target.dataset.at);
    const point = (event) => ((this.pointed = at(event) ?? null), this.shade());
    this.text.addEventListener("pointerover", point);
    this.text.addEventListener("focusin", (event) => event.target.matches(":focus-visible") && point(event));
    for (const leave of ["pointerleave", "focusout"]) {
      this.text.addEventListener(leave, () => ((this.pointed = null), this.shade()));
    }
    this.text.addEventListener("click", (event) => {
      if (at(event) !== undefined) this.select(at(event) === this.selected ? null : at(event));
    });
  }

  // The run

  // Use the model and the tokenizer that are promised; if there are none, those before stay.
  async open(opening) {
    this.status.textContent = "loading …";
    try {
      this.run = await opening;
    } catch (error) {
      [this.error.textContent, this.status.textContent] = [error.message, ""];
      return;
    }
    const { config: c, parts } = this.run.model;
    this.model.textContent = `${parts.n_parameters.toLocaleString("en")} parameters, ${c.n_layer} layers of ` +
      `${c.n_head} heads, ${this.run.tok.tokens.length.toLocaleString("en")} tokens, a window of ${c.block_size}.`;
    const options = (n) => Array.from({ length: n }, (_, i) => new Option(i, i));
    this.layer.replaceChildren(...options(c.n_layer));
    this.layer.value = c.n_layer - 1;
    this.head.replaceChildren(new Option("mean of all", ""), ...options(c.n_head));
    this.writing = new Writing(this.run);
    await this.begin();
  }

  // The text

  settings() {
    return Object.fromEntries(Object.entries(this.sliders).map(([name, slider]) => [name, slider.value]));
  }

  number(input, least) {
    const value = input.valueAsNumber;
    if (Number.isInteger(value) && value >= least) return value;
    throw new Error(`The ${input.name} should be a whole number from ${least}.`);
  }

  // Take steps of the writing, with pauses in which the page is drawn; returns whether they came to their end.
  async perform(making) {
    if (!this.writing) return false; // no run is open yet
    const task = (this.task = {}); // a newer one, or Stop, ends this one
    this.error.textContent = "";
    try {
      let [n, since] = [this.writing.tokens.length, performance.now()];
      for (const _ of making()) {
        const pause = this.writing.tokens.length === n ? 0 : 1000 / this.sliders.speed.value;
        if (!pause && performance.now() - since < 15) continue;
        this.draw();
        await new Promise((resolve) => setTimeout(resolve, pause));
        if (this.task !== task) return false;
        [n, since] = [this.writing.tokens.length, performance.now()];
      }
    } catch (error) {
      this.error.textContent = error.message;
    }
    this.task = null;
    this.draw();
    return true;
  }

  // Read the prompt; nothing is written yet.
  async begin() {
    clearTimeout(this.typing);
    [this.selected, this.status.textContent] = [null, ""];
    return this.perform(() => this.writing.begin(this.prompt.value, this.number(this.seed, 0)));
  }

  async start() {
    if ((await this.begin()) && !this.error.textContent) await this.write(0);
  }

  // Write up to `length` tokens more than there are.
  async write(written) {
    const [before, since] = [this.writing.tokens.length, performance.now()];
    this.status.textContent = "writing …";
    const ended = await this.perform(() => this.writing.write(this.settings(), written + this.number(this.length, 1)));
    const n = this.writing.tokens.length - before;
    const rate = Math.round((1000 * n) / (performance.now() - since));
    if (ended) this.status.textContent = this.error.textContent ? "" : `${n} tokens, ${rate} a second`;
  }

  stop() {
    this.task = null;
    for (const _ of this.writing.read()); // a text that was stopped within its window's renewal
    this.status.textContent = "stopped";
    this.draw();
  }

  select(at) {
    if (this.task) this.stop();
    this.selected = at;
    this.draw();
  }

  // Take a token at the place that is shown, and write on unless that is the end.
  async take(id) {
    if (this.task) this.stop();
    const [at, n] = [this.shown(), this.writing.tokens.length];
    [this.selected, this.status.textContent] = [null, ""];
    if (this.writing.tokens[at]?.id === id) return this.draw();
    const done = await this.perform(() => (at < n ? this.writing.branch(at, id) : this.writing.add(id)));
    if (done && at < n && !this.error.textContent) await this.write(at + 1 - this.writing.written);
  }

  // The index whose distribution is shown: the selected token's, or the next one's; after the end, the last one's.
  shown() {
    return this.selected ?? this.writing.tokens.length - this.writing.ended;
  }

  // What is drawn

  draw() {
    if (!this.writing) return;
    this.halt.disabled = !this.task;
    this.go_on.disabled = !this.writing.tokens.length || Boolean(this.task) || this.writing.ended;
    this.drawText();
    try {
      this.drawRows();
    } catch (error) {
      this.error.textContent = error.message;
    }
  }

  drawText() {
    const { tokens, written, tok } = this.writing;
    const pieces = tok.pieces(tokens.map(({ id }) => id));
    while (this.spans.length > tokens.length) this.spans.pop().remove();
    tokens.forEach((token, i) => {
      if (i === this.spans.length) {
        const made = element("span", { tabIndex: i ? -1 : 0 });
        made.setAttribute("role", "button");
        made.setAttribute("aria-describedby", "playground-detail");
        made.dataset.at = i;
        this.spans.push(made);
        this.text.append(made);
      }
      const [span, special] = [this.spans[i], [...tok.special.values()].includes(token.id)];
      const text = special ? pieces[i] : pieces[i].replaceAll("\n", "⏎\n") || tokenName(tok, token.id);
      if (span.textContent !== text) span.textContent = text;
      const kinds = { token: true, prompt: i < written, special: special || !pieces[i], selected: i === this.selected };
      span.className = Object.keys(kinds).filter((kind) => kinds[kind]).join(" ");
    });
    this.shade();
  }

  // Shade the text by surprise, or by the attention of the token under the pointer.
  shade() {
    if (!this.writing) return;
    const { tokens, tok } = this.writing;
    const head = this.head.value === "" ? null : Number(this.head.value);
    const at = this.pointed < tokens.length ? this.pointed : null;
    const weights = at === null ? null : this.writing.attention(at, Number(this.layer.value), head);
    this.text.classList.toggle("attending", Boolean(weights));
    tokens.forEach(({ surprise = 0 }, i) => {
      const shade = weights ? Math.sqrt(weights[i]) : Math.min(surprise / DARKEST, 1);
      this.spans[i].style.setProperty("--shade", shade.toFixed(3));
      this.spans[i].classList.toggle("pointed", i === at);
    });
    const parts = [];
    if (at !== null) {
      const name = (i) => `“${tokenName(tok, tokens[i].id)}”`;
      if (tokens[at].surprise !== undefined) parts.push(`surprise ${tokens[at].surprise.toFixed(2)} nats`);
      const most = weights && [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, 3);
      if (most) parts.push(`attends to ${most.map((i) => `${name(i)} ${percent(weights[i])}`).join(", ")}`);
      parts.unshift(name(at));
      if (!weights) parts.push("not in the model's window");
    }
    this.detail.textContent = parts.join(": ").replace(/: (?=attends|not)/, "; ");
  }

  makeRow() {
    const [before, after] = [element("i"), element("i", { className: "after" })];
    const [name, numbers] = ["name", "numbers"].map((className) => element("span", { className }));
    const root = button("", () => this.take(slot.id), "row");
    root.hidden = true;
    root.append(name, element("span", { className: "bars" }, before, after), numbers);
    const slot = { root, before, after, name, numbers };
    return slot;
  }

  // The most probable tokens at the place that is shown, before and after the settings.
  drawRows() {
    const [at, { tokens, tok }] = [this.shown(), this.writing];
    const state = this.writing.before(at);
    this.back.hidden = this.selected === null;
    const there = at < tokens.length ? `In place of “${tokenName(tok, tokens[at].id)}”` : "The next token";
    this.caption.textContent = state ? there : "Nothing stands before this token";
    if (!state) {
      for (const { root } of this.slots) root.hidden = true;
      this.rest.textContent = "";
      return;
    }
    const logits = this.writing.logits(state);
    const [before, after] = [softmax(logits), softmax(this.writing.adjusted(at, this.settings()))];
    const ids = [];
    for (const id of ranked(logits)) if (ids.push(id) === MOST_ROWS) break;
    if (at < tokens.length && !ids.includes(tokens[at].id)) ids.push(tokens[at].id);
    const longest = Math.max(...ids.map((id) => Math.max(before[id], after[id])));
    this.slots.forEach((slot, i) => {
      slot.root.hidden = i >= ids.length;
      if (slot.root.hidden) return;
      const [id, p, q] = [ids[i], before[ids[i]], after[ids[i]]];
      slot.id = id;
      slot.root.tabIndex = i ? -1 : 0;
      slot.name.textContent = tokenName(tok, id);
      slot.numbers.textContent = `${percent(p)} → ${q ? percent(q) : "cut"}`;
      slot.before.className = q ? "before" : "before cut";
      [slot.before.style.width, slot.after.style.width] = [p, q].map((share) => `${(100 * share) / longest}%`);
      slot.after.hidden = !q;
      slot.root.classList.toggle("chosen", id === tokens[at]?.id);
      slot.root.classList.toggle("gone", !q);
    });
    const sum = (probs) => Math.max(0, 1 - ids.reduce((total, id) => total + probs[id], 0));
    const n = logits.length - ids.length;
    const kept = after.filter((p) => p).length > ids.filter((id) => after[id]).length;
    const left = kept ? percent(sum(after)) : "cut";
    this.rest.textContent = n ? `${n.toLocaleString("en")} others: ${percent(sum(before))} → ${left}` : "";
  }
}

for (const root of document.querySelectorAll(".tg-playground")) {
  new Playground(root).open(fetchRun(root.dataset.run));
}
