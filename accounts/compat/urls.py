"""Addresses that existing clients know."""

from django.urls import path

from accounts.compat import views

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
    path("accept-tos", views.accept_tos, name="accept-tos"),
    path("settings/email/<str:link>", views.verify_email, name="email-verify"),
]
