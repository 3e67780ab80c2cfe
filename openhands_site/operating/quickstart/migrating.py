"""The migrations of a quickstart, in a child process while this process imports the modules of the roles.

The first migrations build thousands of model classes. In a child, this memory is free again when it ends.
"""

import contextlib
import os
import sys
from collections.abc import Iterator

from lib import env
from openhands_site.operating import forking
from openhands_site.operating.embedded import CannotStart


@contextlib.contextmanager
def in_background() -> Iterator[None]:
    """Migrate the database during the ``with`` block. Raise ``CannotStart`` at its end if the migration failed.

    Where a fork is not possible, the block begins when the migrations are done.
    """
    if not forking.can_fork():
        _migrate()
        yield
        return
    title = f"{sys.executable} {env.BASE_DIR / 'manage.py'} migrate"
    child = forking.fork(_migrate_or_exit, title=title, environment=dict(os.environ))
    try:
        yield
        output = child.stdout.read().decode(errors="replace").strip()
        if child.wait() != 0:
            raise CannotStart(
                output or "The tables of the database could not be brought up to date."
            )
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def _migrate() -> None:
    from django.core.management import call_command

    from openhands_site.operating import tables

    try:
        tables.check_tables()
    except tables.OldTables as error:
        raise CannotStart(str(error)) from error
    call_command("migrate", interactive=False, verbosity=0)


def _migrate_or_exit() -> None:
    try:
        _migrate()
    except CannotStart as refusal:
        sys.exit(str(refusal))
