"""Addresses of the pages of accounts."""

from django.urls import include, path

from accounts import (
    device_pages,
    organization_pages,
    organization_settings_pages,
    pages,
    second_factor_pages,
    settings_pages,
)

urlpatterns = [
    path("", include("accounts.oidc.urls")),
    path("sign-in", pages.sign_in, name="sign-in"),
    path("sign-in/second-factor", second_factor_pages.second_step, name="sign-in-second-factor"),
    path("sign-out", pages.sign_out, name="sign-out"),
    path("device", device_pages.device, name="device"),
    path("setup/<str:token>", pages.setup, name="setup"),
    path("settings", pages.account, name="settings"),
    path("settings/second-factor", second_factor_pages.second_factor, name="second-factor"),
    path("settings/agent", settings_pages.agent_settings, name="settings-agent"),
    path("settings/secrets", settings_pages.secrets, name="secrets"),
    path("settings/api-keys", pages.api_keys, name="api-keys"),
    path("settings/api-keys/<uuid:key_id>/revoke", pages.revoke_api_key, name="api-key-revoke"),
    path("settings/organizations", organization_pages.organizations, name="organizations"),
    path(
        "settings/organizations/<uuid:organization_id>",
        organization_pages.organization,
        name="organization",
    ),
    path(
        "settings/organizations/<uuid:organization_id>/agents",
        organization_settings_pages.defaults,
        name="organization-agents",
    ),
    path(
        "settings/organizations/<uuid:organization_id>/<slug:action>",
        organization_pages.act,
        name="organization-act",
    ),
    path("invitations/<str:link>", organization_pages.invitation, name="invitation"),
]
