"""Addresses of signing in with a provider."""

from django.urls import path

from accounts.oidc import back_channel, pages

urlpatterns = [
    path("oidc/<slug:slug>/sign-in", pages.sign_in, name="oidc-sign-in"),
    path("oidc/<slug:slug>/callback", pages.callback, name="oidc-callback"),
    path(
        "oidc/<slug:slug>/back-channel-logout",
        back_channel.back_channel_logout,
        name="oidc-back-channel-logout",
    ),
    path("settings/sign-in", pages.connections, name="connections"),
    path("settings/sign-in/<slug:slug>/connect", pages.connect, name="oidc-connect"),
    path("settings/sign-in/<slug:slug>/disconnect", pages.disconnect, name="oidc-disconnect"),
    path("settings/sessions/<uuid:session_id>/end", pages.end_session, name="session-end"),
]
