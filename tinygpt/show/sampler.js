// The panel in the browser: native controls that send what they are moved to, and the HTML that Python has drawn.
// A message is {do: a name, with: its arguments}; see ACTIONS in sampler.py. Nothing is asked from another host.

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Of each control only its newest value is sent, once the message before has been answered. Calls `late` if it is not.
function sender(model, late) {
  const waiting = new Map();
  let sent = 0;
  let timer;
  function flush() {
    clearTimeout(timer);
    if (waiting.size) timer = setTimeout(late, 3000);
    sent = waiting.size ? performance.now() : 0;
    for (const message of waiting.values()) model.send(message);
    waiting.clear();
  }
  let answered = model.get("state").answered;
  return {
    send(key, name, ...values) {
      waiting.delete(key);
      waiting.set(key, { do: name, with: values });
      if (!sent || performance.now() - sent > 3000) flush(); // an answer may be lost
    },
    receive(count) {
      if (count === answered) return;
      answered = count;
      flush();
    },
  };
}

// Replace the HTML of a box where it changed; what had the focus in it keeps it.
function fill(box, html) {
  if (box.drawn === html) return;
  const key = box.contains(document.activeElement) && document.activeElement.dataset.key;
  box.innerHTML = box.drawn = html;
  for (const group of box.querySelectorAll(".roving")) {
    const parts = [...group.querySelectorAll("[data-key]")];
    const first = parts.find((part) => part.matches(".selected")) || parts[0];
    parts.forEach((part) => (part.tabIndex = part === first ? 0 : -1));
  }
  if (key) box.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
}

// In a group with one tab stop, the arrow keys move the focus, and Enter or the space bar clicks.
function rove(event) {
  const group = event.target.closest(".roving");
  if (!group) return;
  if (event.target.matches("[role=button]") && ["Enter", " "].includes(event.key)) {
    event.preventDefault();
    event.target.click();
  }
  const parts = [...group.querySelectorAll("[data-key]")];
  const at = parts.indexOf(event.target);
  const [before, after, last] = [at - 1, at + 1, parts.length - 1];
  const places = { ArrowLeft: before, ArrowUp: before, ArrowRight: after, ArrowDown: after, Home: 0, End: last };
  const next = parts[places[event.key]];
  if (event.key in places) event.preventDefault();
  if (!next) return;
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

// A slider whose places are the values of a list, each with its word.
function stopSlider({ label, values, words }, send) {
  const input = element("input", { type: "range", min: 0, max: values.length - 1, step: 1 });
  const output = element("output");
  const show = () => {
    output.value = words[input.value];
    input.setAttribute("aria-valuetext", words[input.value]);
  };
  input.addEventListener("input", () => (show(), send(values[input.value])));
  return {
    row: element("label", { className: "slider" }, element("span", { textContent: label }), input, output),
    set(value) {
      if (input.matches(":active, :focus")) return; // it may be ahead of the answer
      input.value = values.indexOf(value);
      show();
    },
  };
}

function makeColumn(index, sliders, send) {
  const stops = sliders.map((slider) => [
    slider.name,
    stopSlider(slider, (value) => send(`${index} ${slider.name}`, "change", index, slider.name, value)),
  ]);
  const boxes = { call: element("code", { className: "call" }) };
  for (const name of ["caption", "bar", "choice", "rows", "source", "text", "note"]) {
    boxes[name] = element("div", { className: name });
  }
  for (const box of [boxes.source, boxes.note]) box.classList.add("muted");
  const u = element("input", { type: "range", min: 0, max: 0.999, step: 0.001, ariaLabel: "random number u" });
  u.addEventListener("input", () => send(`${index} u`, "move_u", index, Number(u.value)));
  const take = element("button", { type: "button", textContent: "go on with it" });
  const back = element("button", { type: "button", textContent: "back to the next token" });
  const legend = element("legend");
  let chosen = 0;
  take.addEventListener("click", () => send(`${index} take`, "take", index, chosen));
  back.addEventListener("click", () => send(`${index} look`, "look", index, null));
  const root = element("fieldset", {}, legend,
    element("div", { className: "halves" },
      element("div", {}, ...stops.map(([, slider]) => slider.row), boxes.text, boxes.note, boxes.call),
      element("div", {},
        element("div", { className: "number-line" }, boxes.caption, back),
        boxes.bar, element("div", { className: "slider number" }, u),
        element("div", { className: "number-line" }, boxes.choice, take),
        boxes.rows, boxes.source)));
  root.addEventListener("click", (event) => {
    const part = event.target.closest("[data-take], [data-look]");
    if (part?.dataset.take) send(`${index} take`, "take", index, Number(part.dataset.take));
    if (part?.dataset.look) {
      const place = part.matches(".selected") ? null : Number(part.dataset.look);
      send(`${index} look`, "look", index, place);
    }
  });
  return {
    root,
    show(column, two) {
      legend.textContent = two ? "AB"[index] : "";
      for (const [name, slider] of stops) slider.set(column.settings[name]);
      for (const name of ["caption", "bar", "choice", "rows", "text"]) fill(boxes[name], column[name]);
      for (const name of ["source", "call", "note"]) boxes[name].textContent = column[name];
      if (!u.matches(":active, :focus")) u.value = column.u;
      u.setAttribute("aria-valuetext", boxes.choice.textContent);
      chosen = column.chosen;
      take.disabled = column.writing || !column.rows;
      boxes.rows.inert = column.writing; // its place is no longer the text's end
      back.hidden = !column.looking;
    },
  };
}

function render({ model, el }) {
  const status = element("span", { className: "muted", role: "status" });
  const { send, receive } = sender(model, () => {
    status.textContent = "No answer yet: the kernel is busy, or this cell must be run again.";
  });
  const button = (label, name, className = "") => {
    const made = element("button", { type: "button", textContent: label, className });
    made.addEventListener("click", () => send(name, name));
    return made;
  };
  const field = (label, input, name, value) => {
    let timer, sent;
    const tell = () => {
      clearTimeout(timer);
      if (sent !== (sent = input.value)) send(name, "change", null, name, value());
    };
    input.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(tell, 250); // when the typing pauses
    });
    input.addEventListener("change", tell); // when the field is left
    return element("label", {}, `${label} `, input);
  };
  const prompt = element("textarea", { rows: 2, spellcheck: false });
  prompt.addEventListener("beforeinput", (event) => event.stopImmediatePropagation()); // JupyterLab would undo a new line
  const length = element("input", { type: "number", min: 1 });
  const seed = element("input", { type: "number", min: 0 });
  const twice = element("input", { type: "checkbox" });
  twice.addEventListener("change", () => send("compare", "compare", twice.checked));
  const start = button("Write", "start", "write");
  const stop = button("Stop", "stop");
  const another = button("Another seed", "start_another");
  const error = element("div", { className: "error", role: "alert" });
  const columns = element("div", { className: "columns" });
  const root = element("div", { className: "tg-sampler tg-live" },
    field("prompt", prompt, "prompt", () => prompt.value),
    element("div", { className: "tools" },
      element("span", { className: "buttons" }, start, stop, another),
      field("length", length, "max_new_tokens", () => (length.value ? Number(length.value) : null)),
      field("seed", seed, "seed", () => (seed.value ? Number(seed.value) : null)),
      element("label", {}, twice, " compare two settings"), status),
    error, columns);
  root.addEventListener("focusin", ({ target }) => {
    target.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes its arrow keys, and Enter
  });
  root.addEventListener("keydown", rove);
  el.append(root);

  let shown = [];
  function show() {
    const state = model.get("state");
    receive(state.answered);
    const two = state.columns.length === 2;
    while (shown.length > state.columns.length) shown.pop().root.remove();
    while (shown.length < state.columns.length) {
      shown.push(makeColumn(shown.length, model.get("sliders"), send));
      columns.append(shown.at(-1).root);
    }
    columns.classList.toggle("two", two);
    shown.forEach((column, i) => column.show(state.columns[i], two));
    for (const [input, value] of [[prompt, state.prompt], [length, state.max_new_tokens], [seed, state.seed]]) {
      if (input !== document.activeElement) input.value = value;
    }
    twice.checked = two;
    stop.disabled = !state.writing;
    error.textContent = state.error;
    status.textContent = state.writing ? "writing …" : "";
  }
  model.on("change:state", show);
  show();
  return () => model.off("change:state", show);
}

export default { render };
