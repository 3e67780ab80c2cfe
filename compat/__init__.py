"""The protocols of existing OpenHands clients, implemented with this server's services.

``v0`` is OpenHands' older protocol: REST routes without a version in the path, and Socket.IO. ``v1`` is the newer
protocol below ``/api/v1``. ``engine`` is the HTTP API of the agent engine, the program that runs an agent in a sandbox.
Each view translates the request, calls one service or queryset, and translates the response.
"""
