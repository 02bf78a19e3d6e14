// Reads a tokenizer.json as tinygpt and Hugging Face's tokenizers write it: bytes merged in pairs, or characters.

const range = (start, end) => Array.from({ length: end - start }, (_, i) => start + i);
const printable = [...range(33, 127), ...range(161, 173), ...range(174, 256)];
const others = range(0, 256).filter((byte) => !printable.includes(byte));
// How files write each byte: as itself if it is printable, otherwise as a letter from 256 on.
const LETTERS = new Map([...printable.map((byte) => [byte, byte]), ...others.map((byte, i) => [byte, 256 + i])]
  .map(([byte, code]) => [byte, String.fromCodePoint(code)]));
const BYTE_OF = new Map([...LETTERS].map(([byte, letter]) => [letter, byte]));
const GPT2_SPLIT = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const SCRIPTS = "Arabic|Cyrillic|Devanagari|Greek|Han|Hangul|Hebrew|Hiragana|Katakana|Latin|Thai";
const SETS = { s: "\\p{White_Space}", S: "\\P{White_Space}", d: "\\p{Nd}", D: "\\P{Nd}" };
const encoder = new TextEncoder();

const decoder = () => new TextDecoder("utf-8", { ignoreBOM: true }); // a BOM is text, too
const wellFormed = (text) => decoder().decode(encoder.encode(text)); // half a surrogate pair becomes U+FFFD

const property = (name) => `\\p{${new RegExp(`^(${SCRIPTS})$`).test(name) ? "Script=" : ""}${name}}`;

// What follows a backslash: a set, an escape such as \n, or a character that stands for itself.
function escaped(letter) {
  if (letter in SETS) return SETS[letter];
  return /\w/.test(letter) ? `\\${letter}` : `\\u{${letter.codePointAt(0).toString(16)}}`;
}

// What is inside (?i:...), with each letter in both cases; s and k have a third form.
function bothCases(letters) {
  const thirds = { s: "ſ", k: "\u212a" };
  const forms = (letter) => {
    const low = letter.toLowerCase();
    return low + letter.toUpperCase() + (thirds[low] ?? "");
  };
  const group = (_, set, letter) => `[${(set ?? letter).replace(/[a-z]/gi, forms)}]`;
  return letters.replace(/\[([^\]]*)\]|([a-z])/gi, group);
}

// A split pattern of Python's `regex` as one of JavaScript.
export function convertPattern(pattern) {
  const inside = (text) =>
    text.replace(/\\p\{(\w+)\}|\\(.)/gu, (_, name, letter) => (name ? property(name) : escaped(letter)));
  const parts = /\(\?i:([^)]*)\)|\[((?:\\.|[^\]\\])*)\]|\\p\{(\w+)\}|\\(.)|(\(\?>|[*+?]\+)|\./gu;
  const converted = pattern.replace(parts, (_, letters, set, name, letter, atomic) => {
    if (letters !== undefined) return `(?:${bothCases(letters)})`;
    if (set !== undefined) return `[${inside(set)}]`;
    if (name) return property(name);
    if (letter) return escaped(letter);
    if (atomic) throw new Error(`its split pattern has ${atomic}, which browsers do not know`);
    return "[^\\n]"; // a dot
  });
  return new RegExp(converted, "gu");
}

// The steps of a part of a tokenizer.json: none, one, or those of a Sequence.
function stepsOf(part, kind) {
  if (part?.type === "Sequence") return part[kind].flatMap((step) => stepsOf(step, kind));
  return part ? [part] : [];
}

// The split pattern, or null where a text is one chunk.
function readSplit(spec) {
  const steps = stepsOf(spec.pre_tokenizer, "pretokenizers");
  const last = steps.pop();
  const patterns = last?.use_regex ?? true ? [GPT2_SPLIT] : [];
  patterns.push(...steps.map((step) => (step.type === "Split" && !step.invert ? step.pattern.Regex : undefined)));
  const other = patterns.length > 1 || patterns.includes(undefined) || last?.add_prefix_space;
  if (last?.type !== "ByteLevel" || other) {
    throw new Error("its pre-tokenizer does more than split by one pattern into bytes, which the playground cannot");
  }
  return patterns[0] ?? null;
}

// Cut a text by a pattern; what the pattern skips is a chunk, too.
function chunks(text, pattern) {
  if (!pattern) return text ? [text] : [];
  const found = [];
  let end = 0;
  for (const { 0: chunk, index } of text.matchAll(pattern)) {
    if (index > end) found.push(text.slice(end, index));
    if (chunk) found.push(chunk);
    end = index + chunk.length;
  }
  return end < text.length ? [...found, text.slice(end)] : found;
}

// Cut a text at these names, the longest first; every second part is a name.
function splitAt(text, names) {
  const longest = names.toSorted((a, b) => b.length - a.length);
  const pattern = longest.map((name) => name.replace(/[\\^$.*+?()[\]{}|\/]/g, "\\$&")).join("|");
  return names.length ? text.split(new RegExp(`(${pattern})`, "u")) : [text];
}

class Tokenizer {
  constructor(tokens, special = new Map()) {
    this.tokens = tokens; // id -> bytes
    this.special = special; // name -> id
  }

  // What each token adds to the text: nothing if it ends within a character, which the next one completes.
  pieces(ids) {
    const stream = decoder();
    const pieces = ids.map((id) => stream.decode(this.tokens[id], { stream: true }));
    if (ids.length) pieces[ids.length - 1] += stream.decode();
    return pieces;
  }

  decode(ids) {
    return this.pieces(ids).join("");
  }
}

export class CharTokenizer extends Tokenizer {
  constructor(spec) {
    const words = Object.entries(spec.model.vocab);
    if (spec.added_tokens?.length) throw new Error("it has added tokens, which a tokenizer of characters cannot");
    if (words.some(([word]) => [...word].length !== 1)) throw new Error("its tokens are not single characters");
    super(byId(words.map(([word, id]) => [id, encoder.encode(word)])));
    this.ids = new Map(words);
  }

  encode(text) {
    return [...wellFormed(text)].map((char) => {
      if (!this.ids.has(char)) throw new Error(`the model does not know the character ${JSON.stringify(char)}`);
      return this.ids.get(char);
    });
  }
}

export class BPETokenizer extends Tokenizer {
  constructor(spec) {
    const { vocab, merges } = spec.model;
    for (const name of ["dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"]) {
      if (spec.model[name]) throw new Error(`it asks for ${name}, which the playground cannot`);
    }
    const added = spec.added_tokens ?? [];
    const special = new Map(added.map(({ content, id }) => [content, id]));
    const bytes = ([word, id]) => [id, special.has(word) ? encoder.encode(word) : unspell(word)];
    super(byId([...new Map([...Object.entries(vocab), ...special])].map(bytes)), special);
    this.normalizers = stepsOf(spec.normalizer, "normalizers").map(({ type }) => type);
    if (this.normalizers.some((form) => !/^NFK?[CD]$/.test(form))) {
      throw new Error(`its normalizer is ${this.normalizers.join(" and ")}, and only Unicode's forms are known here`);
    }
    const pattern = readSplit(spec);
    this.pattern = pattern && convertPattern(pattern);
    const plain = added.filter((token) => token.special === false); // found in any text
    this.first = plain.filter((token) => !token.normalized).map((token) => token.content);
    this.later = plain.filter((token) => token.normalized).map((token) => token.content);
    this.byte = Array.from({ length: 256 }, (_, byte) => vocab[LETTERS.get(byte)]);
    this.merges = new Map(); // left id and right id -> the rank of the pair, and the new id
    merges.forEach((pair, rank) => {
      const [left, right] = typeof pair === "string" ? pair.split(" ") : pair;
      if ([left, right, left + right].some((word) => !Object.hasOwn(vocab, word))) {
        throw new Error(`its merge of ${left} and ${right} needs a token that the vocabulary lacks`);
      }
      this.merges.set(key(vocab[left], vocab[right]), { rank, id: vocab[left + right] });
    });
  }

  encodeChunk(chunk) {
    let ids = Array.from(encoder.encode(chunk), (byte) => this.byte[byte]);
    if (ids.includes(undefined)) throw new Error(`a byte of ${JSON.stringify(chunk)} is not in the vocabulary`);
    while (true) {
      let best = null;
      for (let i = 1; i < ids.length; i++) {
        const merge = this.merges.get(key(ids[i - 1], ids[i]));
        if (merge && (!best || merge.rank < best.rank)) best = { ...merge, left: ids[i - 1], right: ids[i] };
      }
      if (!best) return ids;
      const merged = [];
      for (let i = 0; i < ids.length; i++) {
        const here = ids[i] === best.left && ids[i + 1] === best.right;
        merged.push(here ? best.id : ids[i]);
        if (here) i++;
      }
      ids = merged;
    }
  }

  // The ids of a text. Special tokens are ordinary text, as in `tok.encode(text)`; other added tokens are found.
  encode(text) {
    const ordinary = (part) => chunks(part, this.pattern).flatMap((chunk) => this.encodeChunk(chunk));
    const inside = (part, i) => (i % 2 ? [this.special.get(part)] : ordinary(part));
    const normalized = (part) => this.normalizers.reduce((now, form) => now.normalize(form), part);
    const outside = (part, i) =>
      i % 2 ? [this.special.get(part)] : splitAt(normalized(part), this.later).flatMap(inside);
    return splitAt(wellFormed(text), this.first).flatMap(outside);
  }
}

const key = (left, right) => left * 2 ** 21 + right;

// The bytes of an ordinary token, from its letters.
function unspell(word) {
  return Uint8Array.from(word, (letter) => {
    if (!BYTE_OF.has(letter)) throw new Error(`${letter} in its token ${word} is not a letter that stands for a byte`);
    return BYTE_OF.get(letter);
  });
}

// A list from pairs of an index and its value.
function byId(pairs) {
  const list = [];
  for (const [id, value] of pairs) list[id] = value;
  if (pairs.length !== list.length || list.includes(undefined)) {
    throw new Error(`the ids of its ${pairs.length} tokens are not those from 0 to ${pairs.length - 1}`);
  }
  return list;
}

// The tokenizer that the content of a tokenizer.json describes.
export function readTokenizer(spec) {
  const type = spec?.model?.vocab ? (spec.model.type ?? "BPE") : "none"; // older files do not say BPE
  if (type === "BPE") return new BPETokenizer(spec);
  if (type === "WordLevel") return new CharTokenizer(spec);
  throw new Error(`its vocabulary is ${type}, and the playground reads BPE and WordLevel`);
}
