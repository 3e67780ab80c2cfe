// Convert terminal output to runs of styled text: colors and weights (SGR), carriage returns, backspaces, tabs,
// erase-in-line and moves within the current line. Other control sequences are dropped. Pure; no DOM.

const BASE = [
  "#3b3f4a", "#ff7b7b", "#6fd3a0", "#e5c06b", "#82a8ff", "#d79bf2", "#68cfd8", "#d3d5de",
  "#757a88", "#ff9d9d", "#93e6bd", "#f6d98c", "#a5c1ff", "#e6bcfa", "#93e4ea", "#ffffff",
];

/** Return the CSS color of an index from 0 to 255: 16 named colors, a 6x6x6 cube, 24 grays. */
export function indexedColour(index) {
  if (index < 16) return BASE[index];
  if (index >= 232) {
    const grey = 8 + (index - 232) * 10;
    return `rgb(${grey},${grey},${grey})`;
  }
  const level = (n) => (n ? 55 + n * 40 : 0);
  const cube = index - 16;
  return `rgb(${level(Math.floor(cube / 36))},${level(Math.floor(cube / 6) % 6)},${level(cube % 6)})`;
}

const PLAIN = Object.freeze({});

/** Return the style after applying the numbers of an SGR sequence to a style. Ignore unknown numbers. */
export function applySgr(style, parameters) {
  let next = { ...style };
  const numbers = parameters.length ? parameters : [0];
  for (let i = 0; i < numbers.length; i++) {
    const code = numbers[i];
    if (code === 0) next = {};
    else if (code === 1) next.bold = true;
    else if (code === 2) next.dim = true;
    else if (code === 3) next.italic = true;
    else if (code === 4) next.underline = true;
    else if (code === 7) next.inverse = true;
    else if (code === 9) next.strike = true;
    else if (code === 22) { delete next.bold; delete next.dim; }
    else if (code === 23) delete next.italic;
    else if (code === 24) delete next.underline;
    else if (code === 27) delete next.inverse;
    else if (code === 29) delete next.strike;
    else if (code >= 30 && code <= 37) next.color = BASE[code - 30];
    else if (code >= 40 && code <= 47) next.background = BASE[code - 40];
    else if (code >= 90 && code <= 97) next.color = BASE[code - 82];
    else if (code >= 100 && code <= 107) next.background = BASE[code - 92];
    else if (code === 39) delete next.color;
    else if (code === 49) delete next.background;
    else if (code === 38 || code === 48) {
      const target = code === 38 ? "color" : "background";
      const isByte = (n) => Number.isInteger(n) && n >= 0 && n <= 255;
      if (numbers[i + 1] === 5) {
        if (isByte(numbers[i + 2])) next[target] = indexedColour(numbers[i + 2]);
        i += 2;
      } else if (numbers[i + 1] === 2) {
        const rgb = numbers.slice(i + 2, i + 5);
        if (rgb.length === 3 && rgb.every(isByte)) next[target] = `rgb(${rgb.join(",")})`;
        i += 4;
      }
    }
  }
  return Object.keys(next).length ? next : PLAIN;
}

// An escape sequence (CSI, OSC, or two characters), or one control character.
// eslint-disable-next-line no-control-regex
const CONTROL = /\x1b\[([0-9;:?<=>]*)[ -/]*([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]?|[\x00-\x1f\x7f\x9b]/g;
const MAX_MOVE = 1_000;
const MAX_COLUMN = 1_000_000;

/**
 * Return the lines that a terminal shows after printing `text`, each as a list of runs `{text, style}`.
 *
 * Adjacent characters with the same style object form one run. The time and the size of the result grow linearly with
 * the length of the text: a sequence moves at most MAX_MOVE columns, all moves together insert at most 20
 * spaces for each character of the text, and an erased part of a line is not erased again until something is printed there.
 */
export function renderAnsi(text) {
  const lines = [];
  let cells = [];
  let styles = [];
  let column = 0;
  let erased = 0; // all cells before this column are blank
  let spaces = MAX_MOVE + Math.min(20 * text.length, text.length + 1_000_000);
  let style = PLAIN;

  const put = (piece) => {
    if (column > cells.length) {
      column = Math.min(column, cells.length + spaces);
      spaces -= column - cells.length;
      while (cells.length < column) { cells.push(" "); styles.push(PLAIN); }
    }
    erased = Math.min(erased, column);
    for (const character of piece) {
      cells[column] = character;
      styles[column] = style;
      column = Math.min(column + 1, MAX_COLUMN);
    }
  };
  const endLine = () => {
    const runs = [];
    for (let i = 0; i < cells.length; i++) {
      const last = runs[runs.length - 1];
      if (last && last.style === styles[i]) last.text += cells[i];
      else runs.push({ text: cells[i], style: styles[i] });
    }
    lines.push(runs);
    cells = [];
    styles = [];
    column = 0;
    erased = 0;
  };
  const csi = (parameters, final) => {
    const numbers = parameters.split(/[;:]/).map((part) => (part === "" ? NaN : Number(part)));
    const amount = Math.min(Math.max(Number.isNaN(numbers[0]) ? 1 : numbers[0], 0), MAX_MOVE);
    if (final === "m" && !/[?<=>]/.test(parameters)) {
      style = applySgr(style, parameters === "" ? [] : numbers.map((n) => (Number.isNaN(n) ? 0 : n)));
    } else if (final === "K") {
      const mode = Number.isNaN(numbers[0]) ? 0 : numbers[0];
      if (mode === 0) { cells.length = Math.min(cells.length, column); styles.length = cells.length; erased = Math.min(erased, column); }
      else if (mode === 2) { cells = []; styles = []; erased = 0; }
      else if (mode === 1) {
        for (; erased < Math.min(column + 1, cells.length); erased++) { cells[erased] = " "; styles[erased] = PLAIN; }
      }
    } else if (final === "G") column = Math.max(amount - 1, 0);
    else if (final === "C") column = Math.min(column + amount, MAX_COLUMN);
    else if (final === "D") column = Math.max(column - amount, 0);
  };

  let from = 0;
  for (const match of text.matchAll(CONTROL)) {
    if (match.index > from) put(text.slice(from, match.index));
    from = match.index + match[0].length;
    const sequence = match[0];
    if (match[2]) csi(match[1], match[2]);
    else if (sequence === "\n") endLine();
    else if (sequence === "\r") column = 0;
    else if (sequence === "\b") column = Math.max(column - 1, 0);
    else if (sequence === "\t") put(" ".repeat(8 - (column % 8)));
  }
  if (from < text.length) put(text.slice(from));
  if (cells.length || !lines.length) endLine();
  return lines;
}

/** Return the inline CSS of a run's style. All values come from this module, never from the output, so they are safe. */
export function styleToCss(style) {
  let { color, background } = style;
  if (style.inverse) [color, background] = [background ?? "var(--term)", color ?? "var(--term-ink)"];
  const css = {};
  if (color) css.color = color;
  if (background) css.background = background;
  if (style.bold) css.fontWeight = "700";
  if (style.dim) css.opacity = "0.7";
  if (style.italic) css.fontStyle = "italic";
  const decoration = [style.underline && "underline", style.strike && "line-through"].filter(Boolean);
  if (decoration.length) css.textDecoration = decoration.join(" ");
  return css;
}
