import assert from "node:assert/strict";
import { test } from "node:test";
import { MARKDOWN_LENGTH, parseMarkdown, safeLink } from "../../static/js/lib/markdown.js";
import { MARKDOWN } from "./shapes.js";

const text = (value) => ({ type: "text", text: value });
const inline = (source) => {
  const [paragraph, ...others] = parseMarkdown(source);
  assert.deepEqual([paragraph.type, others], ["paragraph", []]);
  return paragraph.children;
};
const types = (source) => parseMarkdown(source).map((block) => block.type);

test("paragraphs, headings, rules, quotes, lists, tables and code are blocks", () => {
  assert.deepEqual(types("# Title\n\nOne\ntwo\n\n---\n\n```python\nprint('*a*')\n```\nafter"), ["heading", "paragraph", "rule", "code", "paragraph"]);
  assert.deepEqual(types("> a\n\n- b\n\n1. c\n\n|d|\n|-|\n\n    e"), ["quote", "list", "list", "table", "code"]);
  assert.deepEqual(parseMarkdown("```python\nprint('*a*')\n```"), [{ type: "code", language: "python", text: "print('*a*')" }]);
  assert.equal(parseMarkdown("#### Four")[0].level, 4);
});

test("an unclosed fence is code to the end, because a text may still be streaming", () => {
  assert.deepEqual(parseMarkdown("```\na\nb"), [{ type: "code", language: "", text: "a\nb" }]);
});

test("lists may be nested and numbered", () => {
  const [list] = parseMarkdown("- one\n  - inner\n- two\n");
  assert.deepEqual([list.isOrdered, list.children.length], [false, 2]);
  assert.deepEqual(list.children[0].children.map((block) => block.type), ["paragraph", "list"]);
  assert.equal(list.children[0].children[0].isTight, true);
  const [numbered] = parseMarkdown("3. three\n4. four");
  assert.deepEqual([numbered.isOrdered, numbered.start, numbered.children.length], [true, 3, 2]);
});

test("a table has a head, a body and the alignment of its columns", () => {
  const [table] = parseMarkdown("|a|b|c|\n|:-|-:|-|\n|1|`2`|**3**|");
  const [head, body] = table.children;
  assert.deepEqual(head.children[0].children.map((cell) => [cell.isHead, cell.align, cell.children]), [
    [true, "left", [text("a")]], [true, "right", [text("b")]], [true, null, [text("c")]],
  ]);
  assert.deepEqual(body.children[0].children.map((cell) => cell.children[0].type), ["text", "code", "strong"]);
});

test("inline code takes precedence over other markup", () => {
  assert.deepEqual(inline("a `**b**` **c** *d* ~~e~~"), [
    text("a "), { type: "code", text: "**b**" }, text(" "),
    { type: "strong", children: [text("c")] }, text(" "),
    { type: "em", children: [text("d")] }, text(" "),
    { type: "del", children: [text("e")] },
  ]);
  assert.deepEqual(inline("snake_case_name and 2 * 3 * 4"), [text("snake_case_name and 2 * 3 * 4")]);
});

test("a line break in a paragraph stays a line break", () => {
  assert.deepEqual(inline("a\nb"), [text("a"), { type: "break" }, text("b")]);
});

test("only http, https and mailto links are links", () => {
  assert.deepEqual(inline("[a](https://example.com/x)"), [{ type: "link", href: "https://example.com/x", children: [text("a")] }]);
  assert.deepEqual(inline("<mailto:a@example.com>")[0].href, "mailto:a@example.com");
  for (const hostile of ["javascript:alert(1)", "data:text/html,x", "//evil.example", "JaVaScRiPt:1", "vbscript:x", "file:///etc/passwd", "ftp://a/b", "tel:1", "/a", "a.py", "blob:x"]) {
    assert.equal(safeLink(hostile), null, hostile);
    for (const source of [`[a](${hostile})`, `![a](${hostile})`, `<${hostile}>`, `[a][b]\n\n[b]: ${hostile}`]) {
      assert.ok(!JSON.stringify(parseMarkdown(source)).includes('"link"'), source);
    }
  }
  assert.equal(safeLink("not a link"), null);
  assert.equal(safeLink(`https://example.com/${"a".repeat(2_000)}`), null);
});

test("a bare address with a scheme is a link without the punctuation after it", () => {
  const bare = inline("see https://example.com/a.");
  assert.deepEqual(bare[1], { type: "link", href: "https://example.com/a", children: [text("https://example.com/a")] });
  assert.deepEqual(bare[2], text("."));
  assert.deepEqual(inline("setup.py, www.example.com, a@example.com"), [text("setup.py, www.example.com, a@example.com")]);
});

test("an image is a link to the image", () => {
  assert.deepEqual(inline("![picture](https://example.com/a.png)"), [{ type: "link", href: "https://example.com/a.png", children: [text("picture")] }]);
  assert.deepEqual(inline("[![picture](https://example.com/a.png)](https://example.com/)"), [{ type: "link", href: "https://example.com/", children: [text("picture")] }]);
});

test("HTML in a message stays text", () => {
  assert.deepEqual(inline("<img src=x onerror=alert(1)>"), [text("<img src=x onerror=alert(1)>")]);
  assert.deepEqual(inline("<b>a</b>"), [text("<b>a</b>")]);
  assert.deepEqual(types("<div>\n\n# a\n\n</div>"), ["paragraph", "heading", "paragraph"]);
});

test("a text over the limit is plain text", () => {
  const long = "*a* ".repeat(MARKDOWN_LENGTH / 4);
  assert.equal(parseMarkdown(long)[0].type, "paragraph");
  assert.deepEqual(parseMarkdown(`${long}x`), [{ type: "plain", text: `${long}x` }]);
});

for (const [name, shape] of Object.entries(MARKDOWN)) {
  test(`the time for ${name} is linear`, () => {
    // The former parser took 25 s for 10 kB of the first shape. Linear time is far below the limit on a busy machine too.
    const source = shape(40_000);
    const began = performance.now();
    parseMarkdown(source);
    const taken = performance.now() - began;
    assert.ok(taken < 5_000, `${Math.round(taken)} ms`);
  });
}
