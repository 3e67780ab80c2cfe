"""The base class of pages' forms, its fields, and the rendering of a form with errors."""

import pytest
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


def test_only_field_with_an_error_is_marked_for_screen_readers():
    form = create_form(number="0")

    assert form["number"].aria == ' aria-invalid="true" aria-describedby="why"'
    assert form["title"].aria == ""


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

    page = render_form(RequestFactory().get("/"), "site/_errors.html", form)

    assert (page.status_code, page.headers["Retry-After"]) == (page_status, "7")
    assert '<p class="notice error" role="alert" id="why">No.</p>' in page.text


def test_page_without_errors_has_the_status_of_its_argument():
    page = render_form(RequestFactory().get("/"), "site/_errors.html", create_form(), status=201)

    assert (page.status_code, page.text.strip()) == (201, "")
    assert "Retry-After" not in page.headers
