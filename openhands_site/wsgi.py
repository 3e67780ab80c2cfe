"""HTTP alone, for the ``web`` role at scale: any threaded WSGI server, several times cheaper per request.

Sockets and what streams belong to ``realtime``: the balancer in front splits by path (``deploy/``).
"""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "openhands_site.settings")
django_application = get_wsgi_application()

from lib.connections import KeepsConnection  # noqa: E402 - settings need the set-up above
from openhands_site.serving.addresses import ClientAddressOfEnviron  # noqa: E402
from openhands_site.serving.bodies import BodyLimitOfEnviron  # noqa: E402

application = ClientAddressOfEnviron(BodyLimitOfEnviron(KeepsConnection(django_application)))
