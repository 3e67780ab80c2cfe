"""The template tag ``{% module %}``, which all templates can use without ``load``.

``{% module "js/home.js" %}`` draws the script element of a JavaScript module, and before it a ``modulepreload`` link
for each module that it imports, directly or indirectly. Without these links a browser learns of an import only
after it has loaded the importing module, so each level of imports costs a round trip. The imports are read from the
files.
"""

import posixpath
import re
from functools import cache
from pathlib import Path
from typing import Any

from django import template
from django.conf import settings
from django.contrib.staticfiles import finders
from django.template.context import Context
from django.templatetags.static import static
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

register = template.Library()
_IMPORT = re.compile(
    r"""^(?:import|export)\b(?:[^"';]*?\bfrom)?\s*["'](\.[^"']+)["']""", re.MULTILINE
)


@register.simple_tag(takes_context=True)
def module(context: Context, name: str) -> SafeString:
    """Draw the script element of a module and the links to its imports that the page does not have yet."""
    # The outermost context of the rendering, which all blocks and parents of the template share.
    shared: Any = context.render_context.dicts[0]
    linked: set[str] = shared.setdefault(__name__, set())
    imports = [imported for imported in find_imports(name) if imported not in linked]
    linked.update(imports)
    links = format_html_join(
        "", '<link rel="modulepreload" href="{}">', ((static(imported),) for imported in imports)
    )
    return format_html('{}<script type="module" src="{}"></script>', links, static(name))


def find_imports(name: str) -> tuple[str, ...]:
    """Return the names of all modules that a module imports, directly or indirectly, the nearest first.

    Raise ``FileNotFoundError`` if a module does not exist.
    """
    # While somebody edits the scripts, the files are read for every page.
    return _read_imports(name) if settings.DEBUG else _cached_imports(name)


def _read_imports(name: str) -> tuple[str, ...]:
    found = [name]
    for importer in found:  # grows
        path = finders.find(importer)
        if path is None:
            raise FileNotFoundError(f"There is no static file {importer}.")
        for target in _IMPORT.findall(Path(path).read_text()):
            imported = posixpath.normpath(posixpath.join(posixpath.dirname(importer), target))
            if imported not in found:
                found.append(imported)
    return tuple(found[1:])


_cached_imports = cache(_read_imports)
