"""The reference of the ``rest`` benchmark: a plain Django view that runs the same SQL and encodes rows with orjson."""

import json
import os
from pathlib import Path

import orjson
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path

QUERIES: dict[str, list[str]] = (
    json.loads(Path(os.environ["BENCH_QUERIES"]).read_text())
    if "BENCH_QUERIES" in os.environ
    else {}
)


def rows(request: HttpRequest, name: str) -> HttpResponse:
    """Return the rows of the queries ``QUERIES[name]`` as JSON objects."""
    objects = []
    with connection.cursor() as cursor:
        for query in QUERIES[name]:
            cursor.execute(query)
            columns = [column.name for column in cursor.description]
            objects += [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    return HttpResponse(orjson.dumps(objects, default=str), content_type="application/json")


def alive(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"{}", content_type="application/json")


urlpatterns = [path("alive", alive), path("rows/<str:name>", rows)]
