"""The WSGI application: plain HTTP only, for large installations that run a threaded WSGI server.

A WSGI server needs much less processor time per request than ASGI. WebSockets and streaming routes then run in
``realtime`` processes, and a load balancer splits the traffic by path (see ``deploy/``).
"""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "openhands_site.settings")
django.setup(set_prefix=False)

from lib.connections import PersistentConnection  # noqa: E402 - settings need the set-up above
from lib.open_files import prepare  # noqa: E402
from openhands_site import static_files  # noqa: E402
from openhands_site.serving.addresses import ClientAddressOfEnviron  # noqa: E402
from openhands_site.serving.bodies import BodyLimitOfEnviron  # noqa: E402
from openhands_site.serving.charsets import ThreadHandler  # noqa: E402
from openhands_site.serving.probes import ProbesOfAnyHostOfEnviron  # noqa: E402

prepare("web")
static_files.prepare()
application = ProbesOfAnyHostOfEnviron(
    ClientAddressOfEnviron(BodyLimitOfEnviron(PersistentConnection(ThreadHandler())))
)
