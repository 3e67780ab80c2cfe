"""The protocols of existing OpenHands clients, over this server's services.

Each view translates the request, calls one service or queryset, and translates the response.
"""
