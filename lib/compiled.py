"""Querysets whose SQL is made once: compiling one costs more processor time than running it.

The queryset stays the one definition of what is read, ``visible_to`` included; only its values change.
"""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from django.db import models

from lib import prepared


class Compiled:
    """The SQL of ``build(**examples)``, run with other values in the places of the examples.

    Every example has to be a value that nothing else in the query has: a random UUID, an odd text.
    """

    def __init__(
        self, build: Callable[..., models.QuerySet[Any, Any]], wrap: str = "{}", **examples: Any
    ) -> None:
        """``wrap`` is SQL around the queryset's own, with ``%(name)s`` for further values."""
        self._build, self._wrap, self._examples = build, wrap, examples

    def rows(self, **values: Any) -> list[tuple[Any, ...]]:
        """One query; the values by the names of the examples."""
        sql, constants = self._compiled
        return prepared.fetch(sql, values | constants)

    @cached_property
    def _compiled(self) -> tuple[str, dict[str, Any]]:
        sql, params = self._build(**self._examples).query.sql_with_params()
        places, constants = [], {}
        for number, param in enumerate(params):
            name = next(
                (n for n, e in self._examples.items() if type(e) is type(param) and e == param), ""
            )
            if not name:
                name = f"constant_{number}"
                constants[name] = param
            places.append(f"%({name})s")
        if missing := self._examples.keys() - {place[2:-2] for place in places}:
            raise ValueError(f"the query does not use {missing}")
        named = sql.replace("%%", "%%%%") % tuple(places)
        return self._wrap.replace("{}", named), constants


class Rows:
    """Makes instances of such rows as if the ORM had read them; JSON comes as text.

    A row holds the ``columns`` of the model that is read, if any, then those of the ``related`` ones by the relation
    that leads there.
    """

    def __init__(
        self, model: type[models.Model] | None = None, **related: type[models.Model]
    ) -> None:
        kinds = ({"": model} if model else {}) | related
        self._kinds = [_Kind(kind) for kind in kinds.values()]
        self.columns: list[str] = [
            f"{via}__{name}" if via else name
            for via, kind in zip(kinds, self._kinds, strict=True)
            for name in kind.names
        ]

    def instances(self, row: Sequence[Any]) -> list[Any]:
        """One of each model, in their order; None where an outer join found none."""
        found, start = [], 0
        for kind in self._kinds:
            end = start + len(kind.names)
            found.append(kind.instance(row[start:end]) if row[start] is not None else None)
            start = end
        return found


class _Kind:
    """A model's part of a row; its id comes first."""

    def __init__(self, model: type[models.Model]) -> None:
        self.model = model
        fields = model._meta.concrete_fields  # noqa: SLF001 - Django documents _meta
        self.names = [field.attname for field in fields]
        self._json = [n for n, field in enumerate(fields) if isinstance(field, models.JSONField)]

    def instance(self, row: Sequence[Any]) -> Any:
        values = list(row)
        for place in self._json:
            if values[place] is not None:
                values[place] = json.loads(values[place])
        return self.model.from_db("default", self.names, values)


def caller(user: UUID, organization: UUID | None = None) -> Any:
    """Somebody to build a queryset for: with a key of one organization, or not."""
    return SimpleNamespace(
        pk=user, is_authenticated=True, is_active=True, bound_organization_id=organization
    )
