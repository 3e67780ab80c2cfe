"""URL patterns for sign-in, accounts, API keys, secrets and options."""

from django.urls import path

from compat.accounts import keys, secrets, site, views

urlpatterns = [
    path("oauth/keycloak/callback", views.keycloak_callback, name="keycloak-callback"),
    path("oauth/keycloak/offline/callback", views.keycloak_callback, name="keycloak-offline"),
    path("oauth/github/callback", views.github_callback, name="github-callback"),
    path("api/authenticate", views.AuthenticateView.as_view(), name="compat-authenticate"),
    path("api/logout", views.LogoutView.as_view(), name="compat-logout"),
    path("api/accept_tos", views.AcceptTermsView.as_view(), name="compat-accept-tos"),
    path("api/email", views.EmailView.as_view(), name="compat-email"),
    path("api/email/verify", views.EmailVerificationView.as_view(), name="compat-email-verify"),
    path("api/email/verified", views.email_verified, name="compat-email-verified"),
    path("api/secrets", secrets.CompatSecretsView.as_view(), name="compat-secrets"),
    path("api/secrets/<str:name>", secrets.CompatSecretView.as_view(), name="compat-secret"),
    path("api/keys", keys.CompatKeysView.as_view(), name="compat-keys"),
    path("api/keys/llm/byor", keys.ModelKeyView.as_view(), name="compat-model-key"),
    path(
        "api/keys/llm/byor/refresh",
        keys.ModelKeyRefreshView.as_view(),
        name="compat-model-key-refresh",
    ),
    path("api/keys/<uuid:pk>", keys.CompatKeyView.as_view(), name="compat-key"),
    path("api/options/config", site.CompatConfigView.as_view(), name="compat-config"),
    path("api/options/agents", site.CompatAgentsView.as_view(), name="compat-agents"),
    path(
        "api/options/security-analyzers",
        site.CompatAnalyzersView.as_view(),
        name="compat-analyzers",
    ),
    path("health", site.HealthView.as_view(), name="compat-health"),
    path("server_info", site.ServerInfoView.as_view(), name="compat-server-info"),
    path("saas", site.SaasView.as_view(), name="compat-saas"),
    path("accept-tos", views.accept_tos, name="accept-tos"),
    path("settings/email/<str:link>", views.verify_email, name="email-verify"),
]
