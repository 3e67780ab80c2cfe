"""URL patterns of the accounts API, below ``/api/v1/``."""

from django.urls import path

from accounts.api.v1 import devices, settings, views
from accounts.api.v1.api_keys import ApiKeyViewSet
from accounts.api.v1.audit import AuditViewSet
from accounts.api.v1.invitations import InvitationViewSet, ReceivedInvitationViewSet
from accounts.api.v1.members import MemberViewSet
from accounts.api.v1.organizations import OrganizationViewSet
from accounts.api.v1.secrets import SecretViewSet
from accounts.api.v1.service_accounts import ServiceAccountKeyViewSet, ServiceAccountViewSet
from accounts.api.v1.sessions import SessionViewSet
from lib.routers import Router

ORGANIZATION = "organizations/<uuid:pk>"
ACCOUNT = f"{ORGANIZATION}/service-accounts/<uuid:account_id>"
router = Router()
router.register("api-keys", ApiKeyViewSet, basename="api-key")
router.register("audit", AuditViewSet, basename="audit")
router.register("secrets", SecretViewSet, basename="secret")
router.register("sessions", SessionViewSet, basename="session")
router.register("organizations", OrganizationViewSet, basename="organization")
router.register(f"{ORGANIZATION}/members", MemberViewSet, basename="member")
router.register(f"{ORGANIZATION}/invitations", InvitationViewSet, basename="invitation")
router.register("invitations", ReceivedInvitationViewSet, basename="received-invitation")
router.register(
    f"{ORGANIZATION}/service-accounts", ServiceAccountViewSet, basename="service-account"
)
router.register(f"{ACCOUNT}/keys", ServiceAccountKeyViewSet, basename="service-account-key")

urlpatterns = [
    path("settings", settings.SettingsView.as_view(), name="settings"),
    path("auth/csrf", views.CsrfView.as_view(), name="csrf"),
    path("auth/sign-in", views.SignInView.as_view(), name="sign-in"),
    path("auth/sign-out", views.SignOutView.as_view(), name="sign-out"),
    path("auth/device", devices.DeviceView.as_view(), name="device"),
    path("auth/device/token", devices.DeviceTokenView.as_view(), name="device-token"),
    path("options/agents", settings.AgentsView.as_view(), name="options-agents"),
    path("options/security-analyzers", settings.AnalyzersView.as_view(), name="options-analyzers"),
    path("options/config", settings.SiteConfigView.as_view(), name="options-config"),
    path("permissions/explain", views.ExplainView.as_view(), name="explain"),
    *router.urls,
]
