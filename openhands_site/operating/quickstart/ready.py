"""The check whether all roles of a quickstart are ready, and the message about it."""

import http.client
import shlex
from pathlib import Path

from lib import env
from openhands_site.operating import supervisor
from openhands_site.operating.quickstart import ports


def is_ready(runner: supervisor.Supervisor, *, host: str, port: int, grpc_port: int | None) -> bool:
    """Return whether ``web`` and gRPC respond and every other role has connected to the database."""
    permanent = [role for role in runner.roles if not role.once]
    if not all(role.is_running for role in permanent):
        return False
    if grpc_port is not None and not ports.grpc_listens(grpc_port):
        return False
    others = [role for role in permanent if role.name not in ("web", "grpc")]
    return _are_connected(others) and _web_answers(host, port)


def _web_answers(host: str, port: int) -> bool:
    # The listening socket accepts at once, and the response comes when the process serves it.
    connection = http.client.HTTPConnection(ports.own_address(host), port, timeout=1)
    try:
        connection.request("GET", "/ready", headers={"Host": "localhost"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _are_connected(roles: list[supervisor.ProcessRole]) -> bool:
    """Return whether each role has connected to the database since it was started.

    The settings use the role's name as the ``application_name`` of its connections.
    """
    from django.db import Error, connection

    query = (
        "SELECT 1 FROM pg_stat_activity WHERE application_name = %s "
        "AND backend_start > clock_timestamp() - make_interval(secs => %s) LIMIT 1"
    )
    try:
        with connection.cursor() as cursor:
            for role in roles:
                cursor.execute(query, [role.name, role.age_seconds + 1])
                if cursor.fetchone() is None:
                    return False
    except Error:
        return False
    finally:
        connection.close()
    return True


def tell(
    console: supervisor.Console,
    *,
    url: str,
    link: str,
    folder: Path,
    warning: str,
    seconds: float,
) -> None:
    """Print the address of the server, the setup link if there is no administrator, and what to do next."""
    from django.urls import reverse

    console.say("")
    if link:
        console.say(
            f"Open this link to create the first administrator (it works once):\n  {link}\n"
        )
    if warning:
        console.say(warning)
    console.say(f"Ready at {url} (started in {seconds} s). Press Ctrl-C to stop.")
    if link:
        console.say("Next: open the link above, then connect a model under Settings, Model.")
    else:
        console.say(f"Next: sign in at {url}{reverse('sign-in')}.")
    data_dir = ""
    if folder != (env.BASE_DIR / "data").resolve():
        data_dir = f"DATA_DIR={shlex.quote(str(folder))} "
    console.say(f"Other commands: {data_dir}.venv/bin/python manage.py help")
