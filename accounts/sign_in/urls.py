"""Addresses of signing in with a provider."""

from django.urls import path

from accounts.sign_in import back_channel, flows, provider_pages

urlpatterns = [
    path("oidc/<slug:slug>/sign-in", flows.sign_in, name="oidc-sign-in"),
    path("oidc/<slug:slug>/callback", flows.callback, name="oidc-callback"),
    path(
        "oidc/<slug:slug>/back-channel-logout",
        back_channel.back_channel_logout,
        name="oidc-back-channel-logout",
    ),
    path("settings/sign-in", provider_pages.connections, name="connections"),
    path("settings/sign-in/<slug:slug>/connect", provider_pages.connect, name="oidc-connect"),
    path(
        "settings/sign-in/<slug:slug>/disconnect", provider_pages.disconnect, name="oidc-disconnect"
    ),
    path("settings/sessions/<uuid:session_id>/end", provider_pages.end_session, name="session-end"),
]
