"""The ``run_realtime`` command: a process of the ``realtime`` role, which serves only WebSockets and streams."""

from openhands_site.management.commands import run_web


class Command(run_web.Command):
    help = (
        "Serve WebSockets and the HTTP routes that stream or wait. All other HTTP routes belong to the web role. "
        "On SIGTERM, running requests are finished and WebSockets are closed with code 1012."
    )
    role = "realtime"
    application = "openhands_site.realtime:application"
