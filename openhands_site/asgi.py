"""HTTP by Django, sockets by Channels."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "openhands_site.settings")
http = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402 - models need the set-up above

from accounts.sockets import OriginGate  # noqa: E402
from conversations.routing import websocket_urlpatterns  # noqa: E402
from openhands_site.middleware.addresses import ClientAddress  # noqa: E402
from openhands_site.middleware.bodies import BodyLimit  # noqa: E402
from openhands_site.middleware.headers import SocketHeaders  # noqa: E402

sockets = SocketHeaders(OriginGate(URLRouter(websocket_urlpatterns)))
application = ProtocolTypeRouter(
    {"http": ClientAddress(BodyLimit(http)), "websocket": ClientAddress(BodyLimit(sockets))}
)
