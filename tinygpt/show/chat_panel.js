// The chat panel in the browser. A message to Python is {do: a name, with: its arguments}; see ACTIONS in chat_panel.py.
// What has been said is set as text, never as HTML, and nothing is asked from another host.

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function makeBubble({ role }) {
  const words = element("div", { className: "words", dir: "auto" });
  const root = element("div", {}, element("div", { className: "role", textContent: role }), words);
  root.className = `message ${role}`;
  return {
    root,
    role,
    say(content) {
      const said = words.textContent;
      if (content === said) return;
      if (content.startsWith(said)) words.append(content.slice(said.length)); // what is selected stays so
      else words.textContent = content;
    },
  };
}

function render({ model, el }) {
  const log = element("div", { className: "log", role: "log", ariaLabel: "conversation", tabIndex: 0 });
  const input = element("textarea", { rows: 1, ariaLabel: "message", placeholder: "Write a message; Enter sends it" });
  const error = element("div", { className: "error", role: "alert" });
  const status = element("div", { className: "muted", role: "status" });
  const forgotten = element("div", { className: "forgotten" });
  let bubbles = [];
  let answered = model.get("status").answered;
  let draft = ""; // what was sent, until Python has taken it
  let timer;

  function tell(name, ...values) {
    clearTimeout(timer);
    timer = setTimeout(() => {
      status.textContent = "No answer yet: the kernel is busy, or this cell must be run again.";
    }, 3000);
    model.send({ do: name, with: values });
    input.focus();
  }
  function submit() {
    if (!input.value.trim() || model.get("status").writing) return;
    draft = input.value;
    input.value = "";
    tell("send", draft);
  }
  const button = (textContent, act, className = "") => {
    const made = element("button", { type: "button", textContent, className });
    made.addEventListener("click", act);
    return made;
  };
  const send = button("Send", submit, "send");
  const stop = button("Stop", () => tell("stop"));
  const clear = button("Clear", () => tell("clear"));
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // Shift+Enter begins a line
    event.preventDefault();
    submit();
  });
  // JupyterLab would undo a new line
  input.addEventListener("beforeinput", (event) => event.stopImmediatePropagation());
  const root = element("div", { className: "tg-chat tg-live", role: "group", ariaLabel: "chat" },
    log, error, element("div", { className: "entry" }, input, send, stop, clear), status);
  root.addEventListener("focusin", ({ target }) => {
    target.dataset.lmSuppressShortcuts = "true"; // or JupyterLab takes its arrow keys, and Enter
  });
  el.append(root);

  function toEnd() {
    log.scrollTop = log.scrollHeight;
  }
  function show() {
    const state = model.get("status");
    const messages = [...model.get("past"), ...model.get("newest")];
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 10;
    clearTimeout(timer);
    log.ariaBusy = String(state.writing); // a screen reader waits for the whole answer
    const isNew = messages.length > bubbles.length;
    const n = bubbles.findIndex(({ role }, i) => role !== messages[i]?.role);
    if (n >= 0) bubbles.splice(n).forEach((bubble) => bubble.root.remove());
    messages.forEach((message, i) => {
      if (i === bubbles.length) {
        bubbles.push(makeBubble(message));
        log.append(bubbles[i].root);
      }
      bubbles[i].say(message.content);
    });
    forgotten.textContent = state.note;
    if (state.n_forgotten) bubbles[state.n_forgotten]?.root.before(forgotten);
    else forgotten.remove();
    if (atEnd || isNew) toEnd();
    send.disabled = state.writing;
    stop.disabled = !state.writing;
    error.textContent = state.error;
    status.textContent = state.writing ? "writing …" : "";
    if (answered === state.answered) return;
    if (state.error && !input.value) input.value = draft; // so that it can be mended
    answered = state.answered;
    draft = "";
  }
  model.on("change", show);
  show();
  requestAnimationFrame(toEnd); // once it is in the page
  return () => model.off("change", show);
}

export default { render };
