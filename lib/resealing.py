"""The encrypted columns of all models, and their re-encryption with a new key while the server runs.

An encrypted column is a ``BinaryField`` named ``sealed_…``. Each value is bound to the text
``<table>.<column>:<row id>``. A model that binds a column to another text sets ``SEALED_AS``, a dict from the name of
the column to a template that contains ``{pk}``.
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
    """An encrypted column of a model."""

    model: type[models.Model]
    name: str

    def __str__(self) -> str:
        return f"{self.model._meta.db_table}.{self.name}"  # noqa: SLF001 - Django documents _meta

    def binding(self, pk: Any) -> str:
        """Return the ``bound_to`` with which a row's value in this column is encrypted (see ``lib.crypto``)."""
        template = getattr(self.model, "SEALED_AS", {}).get(self.name)
        return template.format(pk=pk) if template else f"{self}:{pk}"


@dataclass
class BatchResult:
    """The result of re-encrypting a batch of rows.

    ``resealed`` is the number of re-encrypted values, and ``broken`` lists the bindings of values that cannot be
    decrypted.
    """

    resealed: int = 0
    broken: list[str] = field(default_factory=list)


def columns() -> list[Column]:
    """Return every encrypted column, in a fixed order."""
    sealed = [
        Column(model, field.name)
        for model in apps.get_models()
        for field in model._meta.concrete_fields  # noqa: SLF001
        if isinstance(field, models.BinaryField) and field.name.startswith("sealed_")
    ]
    return sorted(sealed, key=str)


def count_old(column: Column) -> int:
    """Return the number of values that are not encrypted with the first key of the ring."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {_outdated_rows(column)}", _current_prefix())  # noqa: S608 - our own names
        return int(cursor.fetchone()[0])


def reseal(column: Column, *, batch: int) -> Iterator[BatchResult]:
    """Re-encrypt a column's values with the first key of the ring, ``batch`` rows per transaction.

    The server may run meanwhile: each row is locked, and updated only if its value is unchanged, so no concurrent write
    is lost. Safe to interrupt and repeat, because each value names its key. Values that cannot be decrypted stay
    unchanged.
    """
    quote = connection.ops.quote_name
    meta = column.model._meta  # noqa: SLF001
    table, name, pk = quote(meta.db_table), quote(column.name), quote(str(meta.pk.column))
    # The order and the position are texts, so that the statement works for every type of primary key.
    select = (
        f"SELECT {pk}, {name} FROM {_outdated_rows(column)} AND (%s::text IS NULL OR {pk}::text > %s) "  # noqa: S608
        f"ORDER BY {pk}::text LIMIT %s FOR UPDATE"
    )
    update = f"UPDATE {table} SET {name} = %s WHERE {pk} = %s AND {name} = %s"  # noqa: S608
    last: str | None = None
    while True:
        result = BatchResult()
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(select, [*_current_prefix(), last, last, batch])
            rows = cursor.fetchall()
            for row_id, sealed in rows:
                binding = column.binding(row_id)
                try:
                    plain = crypto.open_sealed(bytes(sealed), bound_to=binding)
                except crypto.Undecryptable:
                    result.broken.append(binding)
                    continue
                new = crypto.seal(plain, bound_to=binding)
                cursor.execute(update, [new, row_id, bytes(sealed)])
                result.resealed += cursor.rowcount
        if not rows:
            return
        last = str(rows[-1][0])
        yield result


def audit(column: Column) -> tuple[Counter[str], list[str]]:
    """Return how many values each key id encrypts, and the bindings of values that cannot be decrypted."""
    keys: Counter[str] = Counter()
    broken = []
    rows = column.model._default_manager.exclude(**{column.name: None})  # noqa: SLF001
    for pk, sealed in rows.values_list("pk", column.name).iterator(chunk_size=500):
        keys[crypto.read_key_id(bytes(sealed))] += 1
        try:
            crypto.open_sealed(bytes(sealed), bound_to=column.binding(pk))
        except crypto.Undecryptable:
            broken.append(column.binding(pk))
    return keys, broken


def _outdated_rows(column: Column) -> str:
    """Return the table and the ``WHERE`` clause of a column's values that an earlier key encrypts.

    Its parameters are ``_current_prefix()``. A sealed value starts with its key id, so SQL can compare the key.
    """
    quote = connection.ops.quote_name
    name = quote(column.name)
    return (
        f"{quote(column.model._meta.db_table)} WHERE {name} IS NOT NULL "  # noqa: SLF001
        f"AND substring({name} from 1 for %s) <> %s"
    )


def _current_prefix() -> list[Any]:
    """Return the length and the bytes with which every value starts that the current key encrypts."""
    key_id = next(iter(settings.ENCRYPTION_KEYS)).encode()
    prefix = bytes([len(key_id)]) + key_id
    return [len(prefix), prefix]
