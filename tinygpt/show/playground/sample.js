// Sampling: what tinygpt/sample.py computes, in 32 bits where Python does, so that both keep the same tokens.

const round = Math.fround;

export const max = (numbers) => numbers.reduce((a, b) => Math.max(a, b), -Infinity); // NaN if there is one

// Yield the ids of the tokens that are left, the most probable first; equal ones in the order of their ids.
export function* ranked(logits) {
  const largest = max(logits);
  let n = logits.reduce((count, logit) => count + (logit > -Infinity), 0);
  let above = Infinity;
  for (let width = 4; n > 0; width *= 2) { // a part at a time: seldom is more than the first asked for
    const least = largest - width;
    const part = [];
    for (let id = 0; id < logits.length; id++) if (logits[id] >= least && logits[id] < above) part.push(id);
    yield* part.sort((a, b) => logits[b] - logits[a] || a - b);
    n -= part.length;
    above = least;
  }
}

export function softmax(logits) {
  const largest = max(logits);
  const probs = new Float64Array(logits.length);
  let sum = 0;
  for (let id = 0; id < probs.length; id++) sum += probs[id] = Math.exp(logits[id] - largest);
  for (let id = 0; id < probs.length; id++) probs[id] /= sum;
  return probs;
}

function keep(logits, allowed) {
  return logits.map((logit, id) => (allowed(logit, id) ? logit : -Infinity));
}

function penalizeRepetition(logits, ids, penalty) {
  const [seen, by] = [new Set(ids), round(penalty)];
  return logits.map((logit, id) => (!seen.has(id) ? logit : logit < 0 ? logit * by : logit / by));
}

function scaleTemperature(logits, temperature) {
  if (temperature > 0) return logits.map((logit) => logit / round(temperature));
  const [best] = ranked(logits);
  return keep(logits, (_, id) => id === best);
}

function keepTopK(logits, k) {
  const least = Float32Array.from(logits).sort().at(-Math.min(k, logits.length));
  return keep(logits, (logit) => logit >= least);
}

function keepTopP(logits, p) {
  if (p === 1) return logits;
  const probs = softmax(logits);
  const kept = new Set();
  let sum = 0;
  for (const id of ranked(logits)) {
    kept.add(id);
    sum += probs[id];
    if (sum >= p) break;
  }
  return keep(logits, (_, id) => kept.has(id));
}

function keepMinP(logits, p) {
  const probs = Float32Array.from(softmax(logits));
  const least = round(round(p) * max(probs));
  return keep(logits, (_, id) => probs[id] >= least);
}

// The logits to draw from: settings are {temperature, top_k, top_p, min_p, repetition_penalty}, null where off.
export function adjust(logits, ids, { temperature, top_k, top_p, min_p, repetition_penalty }) {
  if (!Number.isFinite(max(logits))) {
    throw new Error("a logit is not a number, so there are no probabilities: training may have diverged");
  }
  if (repetition_penalty !== 1) logits = penalizeRepetition(logits, ids, repetition_penalty);
  logits = scaleTemperature(logits, temperature);
  if (top_k !== null) logits = keepTopK(logits, top_k);
  if (top_p !== null) logits = keepTopP(logits, top_p);
  if (min_p !== null) logits = keepMinP(logits, min_p);
  return logits;
}

// Inverse transform sampling: the token at which the sum of probabilities, the largest first, passes u.
export function draw(logits, u) {
  const probs = softmax(logits);
  let sum = 0;
  let last;
  for (const id of ranked(logits)) {
    if (probs[id] === 0) break;
    last = id;
    sum += probs[id];
    if (sum > u) break;
  }
  return last;
}

// Random numbers as torch.rand(dtype=torch.float64) draws them: the Mersenne Twister MT19937, with two words for each.
export class Random {
  constructor(seed) {
    this.words = new Uint32Array(624);
    this.words[0] = seed;
    for (let i = 1; i < 624; i++) {
      const before = this.words[i - 1];
      this.words[i] = Math.imul(1812433253, before ^ (before >>> 30)) + i;
    }
    this.used = 624;
  }

  refill() {
    const { words } = this;
    for (let i = 0; i < 624; i++) {
      const joined = (words[i] & 0x80000000) | (words[(i + 1) % 624] & 0x7fffffff);
      words[i] = words[(i + 397) % 624] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
    }
    this.used = 0;
  }

  word() {
    if (this.used === 624) this.refill();
    let word = this.words[this.used++];
    word ^= word >>> 11;
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    return (word ^ (word >>> 18)) >>> 0;
  }

  // A number from 0 up to 1, with 53 bits.
  next() {
    const high = this.word() & 0x1fffff;
    return (high * 2 ** 32 + this.word()) / 2 ** 53;
  }
}
