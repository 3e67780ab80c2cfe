"""Template tags that draw the fields and the errors of forms on pages. All templates can use them without ``load``.

``{% fields form %}`` encloses the fields of a form. It shows the errors that belong to no drawn field above them::

    {% fields form %}
      {% field form.email type="email" autocomplete="username" %}
      {% field_with_help form.password type="password" %}At least 10 characters.{% end_field_with_help %}
    {% end_fields %}

``{% field %}`` draws a field with its label, its help text and its errors (``site/_field.html``). Its arguments become
attributes of the HTML element, with ``-`` in place of ``_``. These have a meaning of their own:

- ``label`` replaces the form's label, ``note`` is a short text after the label, ``help`` is the help text;
- ``group`` is a CSS class of the whole field, ``hidden_label=True`` shows the label to screen readers only;
- ``choices`` replaces the options of a select element;
- ``rows`` makes a text area, and ``secret=True`` leaves it empty after an error. Passwords are always left empty.

A field with an error has ``aria-invalid``, and ``aria-describedby`` names its errors and its help text. The first of
them has the focus when the page opens. If no field on the page has an error, the other errors have the focus.
"""

from typing import Any

from django import forms, template
from django.template.base import FilterExpression, NodeList, Parser, Token, token_kwargs
from django.template.context import Context
from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe

from lib.forms import PageField, PageForm

register = template.Library()
OWN = ("label", "note", "help", "group", "hidden_label", "choices", "secret")
"""The arguments of ``{% field %}`` that are not attributes of the HTML element."""


class _Fields(template.Node):
    """Draws its content first, and then knows which errors are not shown at a field."""

    def __init__(self, form: FilterExpression, nodelist: NodeList) -> None:
        self.form = form
        self.nodelist = nodelist

    def render(self, context: Context) -> SafeString:
        form: PageForm = self.form.resolve(context)
        content = self.nodelist.render(context)
        return mark_safe(draw_errors(form) + content)  # noqa: S308  (both are rendered templates)


class _Field(template.Node):
    def __init__(
        self,
        bound: FilterExpression,
        options: dict[str, FilterExpression],
        help_text: NodeList | None = None,
    ) -> None:
        self.bound = bound
        self.options = options
        self.help_text = help_text

    def render(self, context: Context) -> SafeString:
        bound = self.bound.resolve(context)
        if not isinstance(bound, PageField):
            raise template.TemplateSyntaxError(f"{self.bound.token} is not a field of a PageForm.")
        options = {name: value.resolve(context) for name, value in self.options.items()}
        if self.help_text is not None:
            options["help"] = mark_safe(self.help_text.render(context).strip())  # noqa: S308
        return draw_field(bound, options)


@register.tag("fields")
def _parse_fields(parser: Parser, token: Token) -> _Fields:
    _, form = token.split_contents()
    nodelist = parser.parse(("end_fields",))
    parser.delete_first_token()
    return _Fields(parser.compile_filter(form), nodelist)


@register.tag("field")
def _parse_field(parser: Parser, token: Token) -> _Field:
    _, bound, *options = token.split_contents()
    return _Field(parser.compile_filter(bound), _parse_options(options, parser))


@register.tag("field_with_help")
def _parse_field_with_help(parser: Parser, token: Token) -> _Field:
    _, bound, *options = token.split_contents()
    nodelist = parser.parse(("end_field_with_help",))
    parser.delete_first_token()
    return _Field(parser.compile_filter(bound), _parse_options(options, parser), nodelist)


def _parse_options(words: list[str], parser: Parser) -> dict[str, FilterExpression]:
    options: dict[str, FilterExpression] = token_kwargs(words, parser)
    if words:
        raise template.TemplateSyntaxError(f"Write the argument {words[0]} as name=value.")
    return options


@register.simple_tag
def errors_of(*all_forms: Any) -> SafeString:
    """Draw the errors of forms that consist of buttons and hidden fields only. Missing forms are skipped."""
    return mark_safe("".join(draw_errors(form) for form in all_forms if form))  # noqa: S308


@register.simple_tag
def invalid_group(bound: PageField) -> SafeString:
    """Return the attributes of a ``fieldset`` of radio buttons or checkboxes, and mark its field as shown.

    ``site/_field_errors.html``, included in the fieldset, shows the errors.
    """
    bound.form.shown.add(bound.name)
    if not bound.errors:
        return SafeString("")
    focus = " tabindex=-1 autofocus" if bound.is_first_invalid else ""
    return mark_safe(  # noqa: S308  (the id is made from the names of a class and a field)
        f' aria-invalid="true" aria-describedby="{bound.auto_id}_error"{focus}'
    )


def draw_errors(form: PageForm) -> str:
    """Return the errors that no drawn field shows, or an empty text."""
    form.is_drawn = True
    return render_to_string(
        "site/_errors.html",
        {"sentences": form.sentences_elsewhere(), "has_focus": not form.has_shown_error()},
    )


def draw_field(bound: PageField, options: dict[str, Any]) -> SafeString:
    """Return the HTML of a field. ``options`` are the arguments of ``{% field %}``."""
    own = {name: options.pop(name) for name in OWN if name in options}
    attributes = {name.replace("_", "-"): value for name, value in options.items()}
    bound.form.shown.add(bound.name)
    bound.help_text = own.get("help", "")
    if "label" in own:
        bound.label = own["label"]
    widget = _widget(bound, attributes, own)
    # The limits of the field, such as `maxlength`, which Django sets only on the field's own widget.
    widget.attrs.update(bound.field.widget_attrs(widget))
    # Only one element of a page can have the focus: the first error, if there is one.
    attributes["autofocus"] = (
        bound.is_first_invalid if bound.form.errors else attributes.get("autofocus", False)
    )
    return render_to_string(
        "site/_field.html",
        {
            "field": bound,
            "control": bound.as_widget(widget, attrs=attributes),
            "is_check": isinstance(widget, forms.CheckboxInput),
            **own,
        },
    )


def _widget(bound: PageField, attributes: dict[str, Any], own: dict[str, Any]) -> forms.Widget:
    """Return the widget that the attributes ask for, and remove from them what belongs to the widget."""
    kind = attributes.pop("type", "")
    if isinstance(bound.field, forms.ChoiceField):
        choices: Any = own.get("choices") or bound.field.choices
        return forms.Select(choices=choices)
    if isinstance(bound.field, forms.BooleanField):
        return forms.CheckboxInput()
    if kind == "password":
        return forms.PasswordInput(render_value=False)
    if "rows" in attributes:
        attributes["cols"] = False
        return _SecretArea() if own.get("secret") else forms.Textarea()
    if isinstance(bound.field, forms.IntegerField):
        return forms.NumberInput()
    widget = forms.TextInput()
    widget.input_type = kind or "text"
    return widget


class _SecretArea(forms.Textarea):
    """A text area that is empty after an error, because its text is secret."""

    def format_value(self, value: Any) -> str:
        return ""
