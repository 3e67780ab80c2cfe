"""The parts that pages' forms share."""

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


def filled(**data):
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
    assert filled(**data).sentences == [sentence]


def test_equal_sentences_are_shown_once():
    form = filled()
    form.add_error(None, "No.")
    form.add_error("title", "No.")

    assert form.sentences == ["No."]


def test_values_that_are_no_options_are_dropped():
    assert filled(marks=["b", "c"]).cleaned_data["marks"] == ["b"]


@pytest.mark.parametrize(
    ("form", "value"), [(NoteForm(), ""), (filled(title="a\0\ud800b"), "a\ufffd\ufffdb")]
)
def test_value_can_be_written_to_the_page(form, value):
    assert form["title"].value() == value


def test_only_fields_with_errors_are_marked():
    form = filled(number="0")

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
def test_refusal_is_shown_on_the_field_that_it_names(problem, field, sentence):
    form = filled()

    form.refuse(problem)

    assert form.errors == {field: [sentence]}


def test_refusal_before_validation_is_the_only_error():
    form = NoteForm({})

    form.refuse(Refused())

    assert form.sentences == ["No."]


@pytest.mark.parametrize(("status", "shown"), [(409, 409), (401, 422)])
def test_page_has_the_status_and_waiting_time_of_the_refusal(status, shown):
    form, problem = filled(), Refused(retry_after=7)
    problem.status = status
    form.refuse(problem)

    page = render_form(RequestFactory().get("/"), "site/_errors.html", form)

    assert (page.status_code, page.headers["Retry-After"]) == (shown, "7")
    assert '<p class="notice error" role="alert" id="why">No.</p>' in page.text


def test_page_without_errors_has_the_given_status():
    page = render_form(RequestFactory().get("/"), "site/_errors.html", filled(), status=201)

    assert (page.status_code, page.text.strip()) == (201, "")
    assert "Retry-After" not in page.headers
