// A text under way: its tokens, the model's state before each, and what the next one is drawn from.

import { Decoder } from "./model.js";
import { adjust, draw, max, Random } from "./sample.js";

export class Writing {
  constructor({ model, tok }) {
    this.model = model;
    this.tok = tok;
    this.decoder = new Decoder(model);
    this.tokens = []; // each with its id, and all but the first with the state it was drawn from, and its surprise
    this.written = 0; // the index of the first token that is not of the prompt
    this.end = tok.special.get("<|end|>") ?? tok.special.get("<|endoftext|>");
  }

  // Read a prompt, after <|end|> as in training if the tokenizer has it. All steps yield after each token read.
  *begin(prompt, seed) {
    const start = this.tok.special.has("<|end|>") ? [this.end] : [];
    const ids = [...start, ...this.tok.encode(prompt)];
    if (!ids.length) throw new Error("The prompt is empty, and this tokenizer has no <|end|> to stand before a text.");
    this.tokens = ids.map((id) => ({ id }));
    this.written = ids.length;
    this.random = new Random(seed);
    this.numbers = []; // of each place that is written
    yield* this.read();
    const { start: first, steps } = this.decoder;
    for (let i = first + 1; i < ids.length; i++) this.know(this.tokens[i], steps[i - first - 1].state);
  }

  // Read what has not been read yet.
  *read() {
    yield* this.decoder.read(this.tokens.map(({ id }) => id));
  }

  // The model's state after the last token that it has read.
  get state() {
    return this.decoder.steps.at(-1)?.state;
  }

  // The logits of the next token; those asked for last are kept.
  logits(state) {
    if (this.known?.state !== state) {
      this.known = { state, logits: this.model.logits(state).subarray(0, this.tok.tokens.length) };
    }
    return this.known.logits;
  }

  // Note the state before a token, and its surprise: minus the log of its probability, in nats.
  know(token, state) {
    const logits = this.logits(state);
    const largest = max(logits);
    let sum = 0;
    for (const logit of logits) sum += Math.exp(logit - largest);
    Object.assign(token, { from: state, surprise: Math.log(sum) + largest - logits[token.id] });
  }

  get ended() {
    return this.tokens.length > this.written && this.tokens.at(-1).id === this.end;
  }

  // The state before the token at this index, which may be the next one.
  before(at) {
    return at < this.tokens.length ? this.tokens[at].from : this.state;
  }

  // The logits of the token at this index, as the settings change them.
  adjusted(at, settings) {
    return adjust(this.logits(this.before(at)), this.tokens.slice(0, at).map(({ id }) => id), settings);
  }

  // Add a token, and read it unless it ends the text.
  *add(id) {
    const token = { id };
    this.know(token, this.state);
    this.tokens.push(token);
    if (!this.ended) yield* this.read();
  }

  // Draw token by token, until the text ends or has so many new tokens.
  *write(settings, limit) {
    while (!this.ended && this.tokens.length - this.written < limit) {
      const place = this.tokens.length - this.written;
      while (this.numbers.length <= place) this.numbers.push(this.random.next());
      yield* this.add(draw(this.adjusted(this.tokens.length, settings), this.numbers[place]));
    }
  }

  // Go back to an index, and take another token there.
  *branch(at, id) {
    this.tokens.length = at;
    this.written = Math.min(this.written, at);
    yield* this.read();
    yield* this.add(id);
  }

  // How much the token at this index attends to each, by a head or by the mean of all; null if it left the window.
  attention(at, layer, head = null) {
    const { start, steps } = this.decoder;
    if (at < start || at >= start + steps.length) return null;
    const heads = head === null ? [...Array(this.model.config.n_head).keys()] : [head];
    const weights = new Float64Array(this.tokens.length);
    for (const one of heads) {
      this.model.attention(steps, layer, one, at - start).forEach((weight, s) => {
        weights[start + s] += weight / heads.length;
      });
    }
    return weights;
  }
}
