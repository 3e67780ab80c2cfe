"""Addresses of the accounts API, below ``/api/v1/``."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from accounts.api.v1 import devices, organizations, settings, views
from accounts.api.v1.audit import AuditViewSet
from accounts.api.v1.secrets import SecretViewSet
from accounts.api.v1.sessions import SessionViewSet

router = SimpleRouter(trailing_slash=False, use_regex_path=False)
router.register("api-keys", views.ApiKeyViewSet, basename="api-key")
router.register("audit", AuditViewSet, basename="audit")
router.register("secrets", SecretViewSet, basename="secret")
router.register("sessions", SessionViewSet, basename="session")
urlpatterns = [
    path("settings", settings.SettingsView.as_view(), name="settings"),
    path("auth/csrf", views.CsrfView.as_view(), name="csrf"),
    path("auth/sign-in", views.SignInView.as_view(), name="sign-in"),
    path("auth/sign-out", views.SignOutView.as_view(), name="sign-out"),
    path("auth/device", devices.DeviceView.as_view(), name="device"),
    path("auth/device/token", devices.DeviceTokenView.as_view(), name="device-token"),
    path("organizations", organizations.OrganizationsView.as_view(), name="organization-list"),
    path(
        "organizations/<uuid:pk>",
        organizations.OrganizationView.as_view(),
        name="organization-detail",
    ),
    path("organizations/<uuid:pk>/leave", organizations.LeaveView.as_view(), name="leave"),
    path("organizations/<uuid:pk>/transfer", organizations.TransferView.as_view(), name="transfer"),
    path("organizations/<uuid:pk>/members", organizations.MembersView.as_view(), name="members"),
    path(
        "organizations/<uuid:pk>/members/<uuid:user_id>",
        organizations.MemberView.as_view(),
        name="member",
    ),
    path(
        "organizations/<uuid:pk>/invitations",
        organizations.InvitationsView.as_view(),
        name="invitation-list",
    ),
    path(
        "organizations/<uuid:pk>/invitations/<uuid:invitation_id>",
        organizations.InvitationView.as_view(),
        name="invitation",
    ),
    path("invitations/accept", organizations.AcceptView.as_view(), name="invitation-accept"),
    path(
        "organizations/<uuid:pk>/service-accounts",
        organizations.ServiceAccountsView.as_view(),
        name="service-account-list",
    ),
    path(
        "organizations/<uuid:pk>/service-accounts/<uuid:account_id>",
        organizations.ServiceAccountView.as_view(),
        name="service-account",
    ),
    path(
        "organizations/<uuid:pk>/service-accounts/<uuid:account_id>/keys",
        organizations.ServiceAccountKeysView.as_view(),
        name="service-account-keys",
    ),
    path(
        "organizations/<uuid:pk>/service-accounts/<uuid:account_id>/keys/<uuid:key_id>",
        organizations.ServiceAccountKeyView.as_view(),
        name="service-account-key",
    ),
    path(
        "organizations/<uuid:pk>/settings",
        settings.OrganizationSettingsView.as_view(),
        name="organization-settings",
    ),
    path("options/agents", settings.AgentsView.as_view(), name="options-agents"),
    path("options/security-analyzers", settings.AnalyzersView.as_view(), name="options-analyzers"),
    path("options/config", settings.SiteConfigView.as_view(), name="options-config"),
    path("permissions/explain", organizations.ExplainView.as_view(), name="explain"),
    *router.urls,
]
