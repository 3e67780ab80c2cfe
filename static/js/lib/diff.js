// Line differences (Myers, 1986) and unified hunks with line numbers. Pure; no DOM.

const MAX_DISTANCE = 2000; // above this many changed lines, finding the shortest edit takes too long

/** Return the lines of a text. A last line without a line break counts; an empty text has no lines. */
export function linesOf(text) {
  if (!text) return [];
  const lines = text.split(/\r\n|\n/);
  if (lines[lines.length - 1] === "") lines.pop();
  return lines;
}

/**
 * Return the edit from `before` to `after` as a list of `{type: "same"|"del"|"add", text, old, new}`, where `old` and
 * `new` are line numbers from 1 or null.
 *
 * Common lines at both ends are skipped first. If the rest differs in more than MAX_DISTANCE lines, the edit removes all
 * old lines and adds all new lines.
 */
export function diffLines(before, after) {
  const a = linesOf(before);
  const b = linesOf(after);
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let endA = a.length;
  let endB = b.length;
  while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) { endA--; endB--; }

  const result = [];
  const same = (i, j) => result.push({ type: "same", text: a[i], old: i + 1, new: j + 1 });
  const del = (i) => result.push({ type: "del", text: a[i], old: i + 1, new: null });
  const add = (j) => result.push({ type: "add", text: b[j], old: null, new: j + 1 });

  for (let i = 0; i < start; i++) same(i, i);
  const script = shortestEdit(...numbered(a.slice(start, endA), b.slice(start, endB)));
  let i = start;
  let j = start;
  for (const step of script) {
    if (step === "same") same(i++, j++);
    else if (step === "del") del(i++);
    else add(j++);
  }
  for (; i < a.length; i++, j++) same(i, j);
  return result;
}

/** Return both lists with the same number for equal lines: comparing long lines again and again takes too long. */
function numbered(a, b) {
  const numbers = new Map();
  const number = (line) => {
    if (!numbers.has(line)) numbers.set(line, numbers.size);
    return numbers.get(line);
  };
  return [a.map(number), b.map(number)];
}

function shortestEdit(a, b) {
  const whole = () => [...a.map(() => "del"), ...b.map(() => "add")];
  if (!a.length || !b.length) return whole();
  const max = Math.min(a.length + b.length, MAX_DISTANCE);
  const v = new Int32Array(2 * max + 3);
  const offset = max + 1;
  const trace = [];
  for (let d = 0; d <= max; d++) {
    trace.push(v.slice(offset - d - 1, offset + d + 2));
    for (let k = -d; k <= d; k += 2) {
      const down = k === -d || (k !== d && v[offset + k - 1] < v[offset + k + 1]);
      let x = down ? v[offset + k + 1] : v[offset + k - 1] + 1;
      let y = x - k;
      while (x < a.length && y < b.length && a[x] === b[y]) { x++; y++; }
      v[offset + k] = x;
      if (x >= a.length && y >= b.length) return walkBack(trace, a.length, b.length, d);
    }
  }
  return whole();
}

function walkBack(trace, lengthA, lengthB, distance) {
  const script = [];
  let x = lengthA;
  let y = lengthB;
  for (let d = distance; d > 0; d--) {
    const v = trace[d]; // diagonals -d-1 … d+1, from before round d
    const at = (k) => v[k + d + 1];
    const k = x - y;
    const down = k === -d || (k !== d && at(k - 1) < at(k + 1));
    const previousK = down ? k + 1 : k - 1;
    const previousX = at(previousK);
    const previousY = previousX - previousK;
    while (x > previousX && y > previousY) { script.push("same"); x--; y--; }
    script.push(down ? "add" : "del");
    x = previousX;
    y = previousY;
  }
  while (x > 0 && y > 0) { script.push("same"); x--; y--; }
  return script.reverse();
}

/** Count the lines that an edit adds and removes. */
export function tally(edit) {
  let added = 0;
  let removed = 0;
  for (const line of edit) {
    if (line.type === "add") added++;
    else if (line.type === "del") removed++;
  }
  return { added, removed };
}

/** Return the hunks of an edit: its changes, each with up to `context` unchanged lines before and after. */
export function hunks(edit, context = 3) {
  const found = [];
  let current = null;
  let lastChange = -Infinity;
  edit.forEach((line, index) => {
    if (line.type === "same") return;
    if (!current || index - lastChange > 2 * context + 1) {
      current = { from: Math.max(0, index - context), to: index };
      found.push(current);
    }
    current.to = index;
    lastChange = index;
  });
  return found.map(({ from, to }) => ({
    skipped: from,
    from,
    lines: edit.slice(from, Math.min(edit.length, to + context + 1)),
  }));
}
