"""Sealed columns of all models, and how their values move to a new key while the server runs.

A sealed column is a ``BinaryField`` named ``sealed_…``. Its values are bound to ``table.column:row id``; a model
whose rows were bound in another way says so in ``SEALED_AS = {column: template with {pk}}``.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.conf import settings
from django.db import connection, models, transaction

from lib import crypto


@dataclass(frozen=True)
class Column:
    """One sealed column of one model."""

    model: type[models.Model]
    name: str

    def __str__(self) -> str:
        return f"{self.model._meta.db_table}.{self.name}"  # noqa: SLF001 - Django documents _meta

    def binding(self, pk: Any) -> str:
        """What a row's value is bound to."""
        template = getattr(self.model, "SEALED_AS", {}).get(self.name)
        return template.format(pk=pk) if template else f"{self}:{pk}"


@dataclass
class Done:
    """What one batch came to: rows resealed, and the places whose values do not open."""

    resealed: int = 0
    broken: list[str] = field(default_factory=list)


def columns() -> list[Column]:
    """Every sealed column, in a fixed order."""
    found = [
        Column(model, field.name)
        for model in apps.get_models()
        for field in model._meta.concrete_fields  # noqa: SLF001
        if isinstance(field, models.BinaryField) and field.name.startswith("sealed_")
    ]
    return sorted(found, key=str)


def count_old(column: Column) -> int:
    """How many values are sealed with another key than the ring's first."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {_old(column)}", _head())  # noqa: S608 - our own names
        return int(cursor.fetchone()[0])


def reseal(column: Column, *, batch: int) -> Iterator[Done]:
    """Move a column's values to the ring's first key, ``batch`` rows a transaction.

    Online and resumable: a value says itself which key sealed it, so nothing else is remembered, and a kill
    loses one batch at most. Rows are locked while they are resealed and written only if they are as they were
    read: a concurrent write comes before or after, and is never overwritten. Values that do not open stay.
    """
    quote = connection.ops.quote_name
    meta = column.model._meta  # noqa: SLF001
    table, name, pk = quote(meta.db_table), quote(column.name), quote(str(meta.pk.column))
    select = (
        f"SELECT {pk}, {name} FROM {_old(column)} AND (%s::text IS NULL OR {pk}::text > %s) "  # noqa: S608
        f"ORDER BY {pk}::text LIMIT %s FOR UPDATE"
    )
    update = f"UPDATE {table} SET {name} = %s WHERE {pk} = %s AND {name} = %s"  # noqa: S608
    last: str | None = None
    while True:
        done = Done()
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(select, [*_head(), last, last, batch])
            rows = cursor.fetchall()
            for row_id, sealed in rows:
                place = column.binding(row_id)
                try:
                    plain = crypto.open_sealed(bytes(sealed), bound_to=place)
                except crypto.Undecryptable:
                    done.broken.append(place)
                    continue
                cursor.execute(update, [crypto.seal(plain, bound_to=place), row_id, bytes(sealed)])
                done.resealed += cursor.rowcount
        if not rows:
            return
        last = str(rows[-1][0])
        yield done


def audit(column: Column) -> tuple[Counter[str], list[str]]:
    """How many values each key seals, and the places whose values do not open."""
    keys: Counter[str] = Counter()
    broken = []
    rows = column.model._default_manager.exclude(**{column.name: None})  # noqa: SLF001
    for pk, sealed in rows.values_list("pk", column.name).iterator(chunk_size=500):
        keys[crypto.key_id_of(bytes(sealed))] += 1
        try:
            crypto.open_sealed(bytes(sealed), bound_to=column.binding(pk))
        except crypto.Undecryptable:
            broken.append(column.binding(pk))
    return keys, broken


def _old(column: Column) -> str:
    quote = connection.ops.quote_name
    name = quote(column.name)
    return (
        f"{quote(column.model._meta.db_table)} WHERE {name} IS NOT NULL "  # noqa: SLF001
        f"AND substring({name} from 1 for %s) <> %s"
    )


def _head() -> list[Any]:
    key_id = next(iter(settings.ENCRYPTION_KEYS)).encode()
    head = bytes([len(key_id)]) + key_id
    return [len(head), head]
