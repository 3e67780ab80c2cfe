"""Problems of pages, which are shown as HTML."""

from django.test import RequestFactory

from lib.problems import TooLarge
from openhands_site.middleware.errors import ProblemDetails

process_exception = ProblemDetails(lambda request: None).process_exception


def test_problem_of_a_page_is_an_html_page():
    response = process_exception(
        RequestFactory().get("/conversations"), TooLarge("Too much of it.")
    )

    assert response.status_code == 413
    assert response.headers["Content-Type"].startswith("text/html")
    assert "Too much of it." in response.content.decode()


def test_problem_of_the_api_is_problem_json():
    response = process_exception(RequestFactory().get("/api/v1/x"), TooLarge("Too much of it."))

    assert response.headers["Content-Type"] == "application/problem+json"
