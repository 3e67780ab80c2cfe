"""The base class of pages' forms, its fields, and the rendering of a form with errors."""

import pytest
from django.template import Context, Template
from django.test import RequestFactory

from lib.forms import CheckboxesField, NumberField, OptionField, PageForm, TextField, render_form
from lib.problems import Problem


class Refused(Problem):
    status = 409
    sentence = "No."


class NoteForm(PageForm):
    title = TextField(label="Title", max_length=5)
    number = NumberField(label="Number", min_value=1, max_value=9, required=False)
    colour = OptionField(label="Colour", choices=[("red", "Red")], required=False)
    marks = CheckboxesField(choices=[("a", "A"), ("b", "B")], required=False)
    hidden = TextField(required=False)


def create_form(**data):
    """Return a validated form with a valid title and the given data."""
    form = NoteForm({"title": "ok"} | data)
    form.is_valid()
    return form


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"title": " "}, "Fill in “Title”."),
        ({"title": "x" * 6}, "“Title” may have at most 5 characters."),
        ({"title": "a\0b"}, "“Title” contains characters that cannot be stored. Remove them."),
        ({"title": "a\ud800"}, "“Title” contains characters that cannot be stored. Remove them."),
        ({"number": "0"}, "“Number” must be a whole number from 1 to 9."),
        ({"number": "²"}, "“Number” must be a whole number from 1 to 9."),
        ({"number": "9" * 5_000}, "“Number” must be a whole number from 1 to 9."),
        ({"colour": "\ud800"}, "Choose one of the options of “Colour”."),
        ({"hidden": "\0"}, "The form is incomplete or outdated. Reload the page and try again."),
    ],
)
def test_field_error_is_a_sentence_that_names_the_field(data, sentence):
    assert create_form(**data).sentences == [sentence]


def test_equal_sentences_are_shown_once():
    form = create_form()
    form.add_error(None, "No.")
    form.add_error("title", "No.")

    assert form.sentences == ["No."]


def test_unknown_options_are_dropped():
    assert create_form(marks=["b", "c"]).cleaned_data["marks"] == ["b"]


@pytest.mark.parametrize(
    ("form", "value"), [(NoteForm(), ""), (create_form(title="a\0\ud800b"), "a\ufffd\ufffdb")]
)
def test_unencodable_value_is_replaced_for_the_page(form, value):
    assert form["title"].value() == value


PAGE = """{% fields form %}{% field form.title autofocus=True help="Short." %}{% field form.number %}
{% if colour %}{% field form.colour %}{% endif %}{% end_fields %}"""


def draw(form, **context):
    return Template(PAGE).render(Context({"form": form, **context}))


def test_field_refers_to_its_errors_and_its_help_and_the_first_error_has_the_focus():
    page = draw(create_form(title="", number="0"))

    assert page.count(" autofocus") == 1
    assert (
        '<input type="text" name="title" maxlength="5" autofocus required aria-invalid="true" '
        'aria-describedby="note-title_helptext note-title_error" id="note-title">'
    ) in page
    assert '<p class="field-error" id="note-title_error">Fill in “Title”.</p>' in page
    assert '<small id="note-title_helptext">Short.</small>' in page
    assert 'aria-describedby="note-number_error"' in page
    assert "notice error" not in page


def test_field_without_errors_is_not_marked():
    page = draw(NoteForm(initial={"title": "ok"}))

    assert "aria-invalid" not in page
    assert "field-error" not in page
    assert (
        '<input type="text" name="title" value="ok" maxlength="5" autofocus required '
        'aria-describedby="note-title_helptext" id="note-title">'
    ) in page
    assert '<input type="number" name="number" min="1" max="9" id="note-number">' in page


def test_error_of_a_field_that_is_not_drawn_stands_above_the_fields_and_has_the_focus():
    form = create_form(colour="green")

    assert draw(form).startswith(
        '<p class="notice error" role="alert" tabindex="-1" autofocus>Choose one of the options of “Colour”.</p>'
    )
    assert "notice" not in draw(create_form(colour="green"), colour=True)


@pytest.mark.parametrize("drawn", ["type='password'", "rows=2 secret=True"])
def test_secret_is_not_sent_back(drawn):
    source = "{% field form.title DRAWN %}".replace("DRAWN", drawn)

    assert "Sec-1" not in Template(source).render(Context({"form": create_form(title="Sec-1")}))


@pytest.mark.parametrize(
    ("problem", "field", "sentence"),
    [
        (Refused("No."), "__all__", "No."),
        (Refused("title: is taken."), "title", "Title: is taken."),
        (Refused("Is taken.", field="title"), "title", "Is taken."),
        (Refused("other: is taken.", field="other"), "__all__", "other: is taken."),
    ],
)
def test_problem_is_shown_at_the_field_that_it_names(problem, field, sentence):
    form = create_form()

    form.refuse(problem)

    assert form.errors == {field: [sentence]}


def test_problem_before_validation_is_the_only_error():
    form = NoteForm({})

    form.refuse(Refused())

    assert form.sentences == ["No."]


@pytest.mark.parametrize(("status", "page_status"), [(409, 409), (401, 422)])
def test_page_has_the_status_and_retry_after_of_the_problem(status, page_status):
    form, problem = create_form(), Refused(retry_after=7)
    problem.status = status
    form.refuse(problem)

    page = render_form(RequestFactory().get("/"), "site/_errors.html", form, {"sentences": ["No."]})

    assert (page.status_code, page.headers["Retry-After"]) == (page_status, "7")
    assert '<p class="notice error" role="alert">No.</p>' in page.text


def test_page_without_errors_has_the_status_of_its_argument():
    page = render_form(RequestFactory().get("/"), "site/_errors.html", create_form(), status=201)

    assert (page.status_code, page.text.strip()) == (201, "")
    assert "Retry-After" not in page.headers
