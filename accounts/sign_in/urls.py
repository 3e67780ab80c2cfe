"""URL patterns for signing in with an identity provider."""

from django.urls import path

from accounts.sign_in import back_channel, connections, flows

urlpatterns = [
    path("oidc/<slug:slug>/sign-in", flows.sign_in, name="oidc-sign-in"),
    path("oidc/<slug:slug>/callback", flows.callback, name="oidc-callback"),
    path(
        "oidc/<slug:slug>/back-channel-logout",
        back_channel.back_channel_logout,
        name="oidc-back-channel-logout",
    ),
    path("settings/sign-in", connections.connections, name="connections"),
    path("settings/sign-in/<slug:slug>/connect", connections.connect, name="oidc-connect"),
    path("settings/sign-in/<slug:slug>/disconnect", connections.disconnect, name="oidc-disconnect"),
    path("settings/sessions/<uuid:session_id>/end", connections.end_session, name="session-end"),
]
