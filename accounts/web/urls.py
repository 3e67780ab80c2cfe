"""URL patterns of the accounts pages."""

from django.urls import include, path

from accounts.web import (
    devices,
    organization_settings,
    organizations,
    pages,
    second_factor,
    settings,
)

urlpatterns = [
    path("", include("accounts.sign_in.urls")),
    path("sign-in", pages.sign_in, name="sign-in"),
    path("sign-in/second-factor", second_factor.second_step, name="sign-in-second-factor"),
    path("sign-out", pages.sign_out, name="sign-out"),
    path("device", devices.device, name="device"),
    path("setup/<str:token>", pages.setup, name="setup"),
    path("settings", pages.account, name="settings"),
    path("settings/second-factor", second_factor.second_factor, name="second-factor"),
    path("settings/agent", settings.agent_settings, name="settings-agent"),
    path("settings/secrets", settings.secrets, name="secrets"),
    path("settings/api-keys", pages.api_keys, name="api-keys"),
    path("settings/api-keys/<uuid:key_id>/revoke", pages.revoke_api_key, name="api-key-revoke"),
    path("settings/organizations", organizations.organizations, name="organizations"),
    path(
        "settings/organizations/<uuid:organization_id>",
        organizations.organization,
        name="organization",
    ),
    path(
        "settings/organizations/<uuid:organization_id>/agents",
        organization_settings.defaults,
        name="organization-agents",
    ),
    path(
        "settings/organizations/<uuid:organization_id>/<slug:action>",
        organizations.act,
        name="organization-act",
    ),
    path("invitations/<str:link>", organizations.invitation, name="invitation"),
]
