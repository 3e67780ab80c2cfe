"""Addresses of the pages of accounts."""

from django.urls import include, path

from accounts import pages

urlpatterns = [
    path("", include("accounts.oidc.urls")),
    path("", include("accounts.compat.urls")),
    path("sign-in", pages.sign_in, name="sign-in"),
    path("sign-out", pages.sign_out, name="sign-out"),
    path("setup/<str:token>", pages.setup, name="setup"),
    path("settings", pages.account, name="settings"),
    path("settings/api-keys", pages.api_keys, name="api-keys"),
    path("settings/api-keys/<uuid:key_id>/revoke", pages.revoke_api_key, name="api-key-revoke"),
]
