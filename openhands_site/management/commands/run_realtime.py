"""Serves sockets and streams only: the ``realtime`` role."""

from openhands_site.management.commands import run_web


class Command(run_web.Command):
    help = (
        "Serve WebSockets and the addresses that stream or wait; the rest of HTTP belongs to web. "
        "SIGTERM finishes streams and closes sockets with 1012."
    )
    role = "realtime"
    application = "openhands_site.realtime:application"
