import assert from "node:assert/strict";
import { test } from "node:test";
import { diffLines, hunks, linesOf, tally } from "../../static/js/lib/diff.js";
import { DIFF } from "./shapes.js";

const marks = { same: " ", add: "+", del: "-" };
const formatDiff = (before, after) => diffLines(before, after).map((line) => marks[line.type] + line.text);
const rebuildSide = (edit, without) => edit.filter((line) => line.type !== without).map((line) => line.text);

test("a changed line is a deletion and an addition", () => {
  assert.deepEqual(formatDiff("a\nb\nc\n", "a\nx\nc\n"), [" a", "-b", "+x", " c"]);
});

test("each side has its own line numbers", () => {
  const edit = diffLines("a\nb\nc\n", "z\na\nc\n");
  assert.deepEqual(edit.map((line) => [line.old, line.new]), [[null, 1], [1, 2], [2, null], [3, 3]]);
});

test("empty texts and line ends are handled", () => {
  assert.deepEqual(formatDiff("", "a\n"), ["+a"]);
  assert.deepEqual(formatDiff("a\n", ""), ["-a"]);
  assert.deepEqual(formatDiff("a\nb", "a\nb"), [" a", " b"]);
  assert.deepEqual(linesOf("a\r\nb\r\n"), ["a", "b"]);
  assert.deepEqual(linesOf("\n\n"), ["", ""]);
});

test("both sides can be rebuildSide from an edit, and the edit is the shortest", () => {
  let seed = 7;
  const random = (below) => (seed = (seed * 1103515245 + 12345) & 0x7fffffff) % below;
  for (let round = 0; round < 300; round++) {
    const a = Array.from({ length: random(12) }, () => "abcd"[random(4)]);
    const b = Array.from({ length: random(12) }, () => "abcd"[random(4)]);
    const edit = diffLines(a.map((line) => `${line}\n`).join(""), b.map((line) => `${line}\n`).join(""));
    assert.deepEqual(rebuildSide(edit, "add"), a);
    assert.deepEqual(rebuildSide(edit, "del"), b);
    const same = edit.filter((line) => line.type === "same").length;
    assert.equal(same, longestCommon(a, b));
  }
});

function longestCommon(a, b) {
  const table = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0));
  for (let i = 1; i <= a.length; i++) for (let j = 1; j <= b.length; j++) table[i][j] = a[i - 1] === b[j - 1] ? table[i - 1][j - 1] + 1 : Math.max(table[i - 1][j], table[i][j - 1]);
  return table[a.length][b.length];
}

test("hunks have context, and distant changes are in separate hunks", () => {
  const before = Array.from({ length: 30 }, (_, i) => `line ${i}`).join("\n");
  const edit = diffLines(before, before.replace("line 5\n", "LINE 5\n").replace("line 25\n", "LINE 25\n"));
  const parts = hunks(edit);
  assert.equal(parts.length, 2);
  assert.deepEqual(parts.map((hunk) => hunk.lines.length), [8, 8]);
  assert.deepEqual(parts[0].lines[0], { type: "same", text: "line 2", old: 3, new: 3 });
  assert.deepEqual(tally(edit), { added: 2, removed: 2 });
  assert.deepEqual(hunks(diffLines("a", "a")), []);
});

test("two large different files are compared within seconds", () => {
  const big = (word) => Array.from({ length: 9000 }, (_, i) => `${word} ${i}`).join("\n");
  const began = performance.now();
  const { added, removed } = tally(diffLines(big("a"), big("b")));
  assert.deepEqual([added, removed], [9000, 9000]);
  assert.ok(performance.now() - began < 4000);
});

for (const [name, shape] of Object.entries(DIFF)) {
  test(`the time for ${name} texts does not depend on the length of lines and is limited`, () => {
    const [before, after] = shape(400_000);
    const began = performance.now();
    const edit = diffLines(before, after);
    const taken = performance.now() - began;
    assert.deepEqual(rebuildSide(edit, "add"), linesOf(before));
    assert.ok(hunks(edit).length >= 0);
    assert.ok(taken < 8_000, `${Math.round(taken)} ms`);
  });
}
