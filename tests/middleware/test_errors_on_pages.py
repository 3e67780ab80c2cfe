from django.test import RequestFactory

from lib.problems import TooLarge
from openhands_site.middleware.errors import ProblemDetails

answer = ProblemDetails(lambda request: None).process_exception


def test_refusal_on_a_page_is_a_page():
    response = answer(RequestFactory().get("/conversations"), TooLarge("Too much of it."))

    assert response.status_code == 413
    assert response.headers["Content-Type"].startswith("text/html")
    assert "Too much of it." in response.content.decode()


def test_refusal_of_the_api_is_a_problem():
    response = answer(RequestFactory().get("/api/v1/x"), TooLarge("Too much of it."))

    assert response.headers["Content-Type"] == "application/problem+json"
