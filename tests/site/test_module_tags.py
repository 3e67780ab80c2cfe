"""The links to imported modules, compared with the imports that Node.js finds."""

import json
import re
import shutil
import subprocess

import pytest
from django.template import Context, Template

from openhands_site import module_tags
from tests.prepare import ROOT

NODE = shutil.which("node")
STATIC = ROOT / "static"
ENTRIES = sorted(
    name
    for template in (ROOT / "templates").rglob("*.html")
    for name in re.findall(r"{% module [\"']([^\"']+)[\"'] %}", template.read_text())
)
GRAPH = """\
import { SourceTextModule } from "node:vm";
import { readFileSync } from "node:fs";
const found = [process.argv[1]];
for (const url of found) {
  const module = new SourceTextModule(readFileSync(new URL(url), "utf-8"));
  for (const name of module.dependencySpecifiers) {
    const target = new URL(name, url).href;
    if (!found.includes(target)) found.push(target);
  }
}
console.log(JSON.stringify(found.slice(1)));
"""


def render(text):
    return Template(text).render(Context())


@pytest.mark.skipif(NODE is None, reason="Node.js is not installed")
@pytest.mark.parametrize("name", ENTRIES)
def test_all_imports_are_linked(name):
    options = ["--no-warnings", "--experimental-vm-modules", "--input-type=module", "-e", GRAPH]
    result = subprocess.run(
        [NODE, *options, (STATIC / name).as_uri()], capture_output=True, text=True, check=True
    )
    expected = [url.removeprefix(f"{STATIC.as_uri()}/") for url in json.loads(result.stdout)]

    assert sorted(module_tags.find_imports(name)) == sorted(expected)


def test_page_of_a_conversation_links_four_levels_of_imports():
    assert "js/conversation.js" in ENTRIES
    assert "js/vendor/markdown-it/markdown-it.js" in module_tags.find_imports("js/conversation.js")


def test_each_module_is_linked_once_per_page():
    html = render('{% module "js/common.js" %}{% module "js/home.js" %}')

    assert html.count('rel="modulepreload"') == len(
        set(re.findall(r'rel="modulepreload" href="([^"]+)"', html))
    )
    assert len(re.findall(r"js/lib/dom\.(?:\w+\.)?js", html)) == 1
    assert html.count("<script") == 2


def test_pages_draw_module_scripts_only_with_the_tag():
    for template in (ROOT / "templates").rglob("*.html"):
        assert 'type="module"' not in template.read_text(), template


def test_missing_module_is_an_error():
    with pytest.raises(FileNotFoundError, match=r"js/nothing\.js"):
        module_tags.find_imports("js/nothing.js")
