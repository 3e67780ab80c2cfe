"""Querysets whose SQL is compiled only once, because compiling takes more processor time than running the query.

The queryset, including ``visible_to``, still decides which rows are returned. Each execution reuses its SQL with other
parameter values.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from inspect import getattr_static
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, models
from django.db.models.base import ModelState
from django.db.models.expressions import RawSQL
from django.db.models.fields.related_descriptors import ForeignKeyDeferredAttribute
from django.db.models.query_utils import DeferredAttribute
from django.db.models.signals import post_init, pre_init

from lib import prepared


class Compiled:
    """A queryset whose SQL is compiled on first use and then executed with other values.

    ``build(**examples)`` returns the queryset with example values, and ``rows`` replaces the examples by the caller's
    values. An example must be a value that occurs nowhere else in the query, such as a random UUID.
    """

    def __init__(
        self, build: Callable[..., models.QuerySet[Any, Any]], wrap: str = "{}", **examples: Any
    ) -> None:
        """Prepare a compiled queryset.

        ``wrap`` is a statement in which ``{}`` stands for the queryset's SQL. It may contain placeholders ``%(name)s``
        for further values of ``rows``.
        """
        self._build, self._wrap, self._examples = build, wrap, examples

    def rows(self, **values: Any) -> list[tuple[Any, ...]]:
        """Run the query with ``values`` in place of the examples of the same names, and return its rows."""
        sql, constants = self._compiled
        return prepared.fetch(sql, values | constants)

    @cached_property
    def _compiled(self) -> tuple[str, dict[str, Any]]:
        sql, params = self._build(**self._examples).query.sql_with_params()
        places, constants = [], {}
        for number, param in enumerate(params):
            # The types are compared too, because in Python ``1 == True``.
            name = next(
                (n for n, e in self._examples.items() if type(e) is type(param) and e == param), ""
            )
            if not name:
                name = f"constant_{number}"
                constants[name] = param
            places.append(f"%({name})s")
        if missing := self._examples.keys() - {place[2:-2] for place in places}:
            raise ValueError(f"the query does not use {missing}")
        # ``%%`` must survive this formatting, because ``prepared`` turns it into a percent sign.
        named = sql.replace("%%", "%%%%") % tuple(places)
        return self._wrap.replace("{}", named), constants


class Rows:
    """A converter from the rows of a ``Compiled`` query to model instances like those of the ORM.

    A row contains the columns of ``model``, if it is given, then the columns of each model in ``related``, whose keys
    are the names of relations. Pass ``columns``, the names of all these columns, to ``values_list``.
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
        """Return one instance for each model, in order. Return None for a model of which an outer join found no row."""
        instances, start = [], 0
        for kind in self._kinds:
            end = start + len(kind.names)
            # The first column of a model is its primary key, which is null only if an outer join matched no row.
            instances.append(kind.instance(row[start:end]) if row[start] is not None else None)
            start = end
        return instances


class _Kind:
    """The part of a row that belongs to one model. Its primary key comes first."""

    def __init__(self, model: type[models.Model]) -> None:
        self.model = model
        fields = model._meta.concrete_fields  # noqa: SLF001 - Django documents _meta
        self.names = [field.attname for field in fields]
        self._json_places = [
            place for place, field in enumerate(fields) if isinstance(field, models.JSONField)
        ]

    def instance(self, row: Sequence[Any]) -> Any:
        values = list(row)
        for place in self._json_places:
            if values[place] is not None:
                # Django configures the connection to return JSON columns as text.
                values[place] = json.loads(values[place])
        if not self._is_plain:
            return self.model.from_db(DEFAULT_DB_ALIAS, self.names, values)
        # ``from_db`` sends two signals and sets each attribute through its field's descriptor, which takes three times
        # as long. The descriptors of plain columns only store the value in the instance's dictionary.
        new = self.model.__new__(self.model)
        new._state = state = ModelState()  # noqa: SLF001 - Django documents _state
        state.db, state.adding = DEFAULT_DB_ALIAS, False
        vars(new).update(zip(self.names, values, strict=True))
        return new

    @cached_property
    def _is_plain(self) -> bool:
        """Whether Django's ``from_db`` would only store the values.

        This is so if nothing listens to the creation of instances, the model has Django's own constructor, and each
        column has one of Django's two plain descriptors.
        """
        model: Any = self.model
        own = [kind for kind in model.__mro__ if kind not in models.Model.__mro__]
        return (
            not any({"__init__", "from_db"} & vars(kind).keys() for kind in own)
            and not pre_init.has_listeners(model)
            and not post_init.has_listeners(model)
            and all(
                type(getattr_static(model, name))
                in (DeferredAttribute, ForeignKeyDeferredAttribute)
                for name in self.names
            )
        )


def caller(user: UUID, organization: UUID | None = None, conversation: UUID | None = None) -> Any:
    """Return an object to pass to ``visible_to`` in place of the user when a queryset is compiled.

    If the user's key is limited to one organization or one conversation, pass these as ``organization`` and
    ``conversation``.
    """
    return SimpleNamespace(
        pk=user,
        is_authenticated=True,
        is_active=True,
        bound_organization_id=organization,
        bound_conversation_id=conversation,
    )


def ids_in(ids: Iterable[UUID]) -> RawSQL:
    """Return an expression for ``filter(pk__in=…)`` that selects ``ids``.

    The text of the statement is the same for any number of ids. With a list, the driver would keep a text for each
    number.
    """
    return RawSQL("SELECT unnest(%s::uuid[])", [list(ids)])
