import assert from "node:assert/strict";
import { test } from "node:test";
import { indexedColour, renderAnsi, styleToCss } from "../../static/js/lib/ansi.js";
import { TERMINAL } from "./shapes.js";

const plain = (text) => renderAnsi(text).map((runs) => runs.map((run) => run.text).join(""));
const styled = (text) => renderAnsi(text)[0].map((run) => [run.text, styleToCss(run.style)]);

test("16 colours, 256 colours and true colours are read", () => {
  assert.deepEqual(styled("\x1b[31mred\x1b[0m plain"), [["red", { color: "#ff7b7b" }], [" plain", {}]]);
  assert.deepEqual(styled("\x1b[97;44mx"), [["x", { color: "#ffffff", background: "#82a8ff" }]]);
  assert.deepEqual(styled("\x1b[38;5;208mx"), [["x", { color: "rgb(255,135,0)" }]]);
  assert.deepEqual(styled("\x1b[48;2;1;2;3mx"), [["x", { background: "rgb(1,2,3)" }]]);
  assert.deepEqual(styled("\x1b[38:2:9:8:7mx"), [["x", { color: "rgb(9,8,7)" }]]);
  assert.equal(indexedColour(244), "rgb(128,128,128)");
});

test("weights are set and reset, and an empty sequence resets all styles", () => {
  assert.deepEqual(styled("\x1b[1;4mb\x1b[22mu\x1b[mp"), [
    ["b", { fontWeight: "700", textDecoration: "underline" }],
    ["u", { textDecoration: "underline" }],
    ["p", {}],
  ]);
  assert.deepEqual(styled("\x1b[7mx"), [["x", { color: "var(--term)", background: "var(--term-ink)" }]]);
});

test("invalid colour numbers set no colour", () => {
  assert.deepEqual(styled("\x1b[38;5;999mx"), [["x", {}]]);
  assert.deepEqual(styled("\x1b[38;2;1;2mx"), [["x", {}]]);
  assert.deepEqual(styled("\x1b[38;2;1;2;900mx"), [["x", {}]]);
});

test("a carriage return overwrites the line", () => {
  assert.deepEqual(plain("progress  10%\rprogress 100%\ndone"), ["progress 100%", "done"]);
  assert.deepEqual(plain("abcdef\rXY"), ["XYcdef"]);
  assert.deepEqual(plain("abcdef\r\x1b[KXY"), ["XY"]);
  assert.deepEqual(plain("one\r\ntwo\r\n"), ["one", "two"]);
});

test("backspace, tab and cursor moves change the line", () => {
  assert.deepEqual(plain("ab\bc"), ["ac"]);
  assert.deepEqual(plain("a\tb"), ["a       b"]);
  assert.deepEqual(plain("abc\x1b[2DX"), ["aXc"]);
  assert.deepEqual(plain("abc\x1b[1GX"), ["Xbc"]);
});

test("other sequences are removed", () => {
  assert.deepEqual(plain("\x1b]0;title\x07a\x1b[?25lb\x1b[2Jc\x1b(Bd\x07e"), ["abcde"]);
  assert.deepEqual(plain("\x1b]8;;https://example.com\x1b\\link\x1b]8;;\x1b\\"), ["link"]);
  assert.deepEqual(plain("cut off \x1b["), ["cut off "]);
});

test("styles continue over lines, and large cursor moves are limited", () => {
  const lines = renderAnsi("\x1b[32mone\ntwo");
  assert.equal(styleToCss(lines[1][0].style).color, "#6fd3a0");
  const [runs] = renderAnsi("\x1b[999999999Cx");
  assert.ok(runs.reduce((sum, run) => sum + run.text.length, 0) <= 1001);
});

test("erased parts of a line are blank and can be printed on again", () => {
  assert.deepEqual(plain("abcdef\x1b[3D\x1b[1K"), ["    ef"]);
  assert.deepEqual(plain("abcdef\x1b[3D\x1b[1K\rXY\x1b[1K"), ["   " + " ef"]);
  assert.deepEqual(plain("abcdef\x1b[1K\rX\x1b[3C\x1b[1KY"), ["    Y "]);
  assert.deepEqual(plain("abcdef\x1b[3G\x1b[1K\x1b[Kxyz\x1b[2G\x1b[1K"), ["  xyz"]);
});

test("a megabyte of output takes well under a second", () => {
  const text = "\x1b[32mok\x1b[0m line of output\n".repeat(40_000);
  const began = performance.now();
  assert.equal(renderAnsi(text).length, 40_000);
  assert.ok(performance.now() - began < 3000);
});

for (const [name, shape] of Object.entries(TERMINAL)) {
  test(`the time and the size of the result for ${name} are linear`, () => {
    const source = shape(200_000);
    const began = performance.now();
    const lines = renderAnsi(source);
    const taken = performance.now() - began;
    const printed = lines.reduce((sum, runs) => sum + runs.reduce((length, run) => length + run.text.length, 0), 0);
    assert.ok(taken < 8_000, `${Math.round(taken)} ms`);
    assert.ok(printed <= 22 * source.length, `${printed} characters`);
  });
}
