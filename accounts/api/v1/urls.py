"""Addresses of the accounts API, below ``/api/v1/``."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from accounts.api.v1 import views
from accounts.api.v1.sessions import SessionViewSet

router = SimpleRouter(trailing_slash=False, use_regex_path=False)
router.register("api-keys", views.ApiKeyViewSet, basename="api-key")
router.register("sessions", SessionViewSet, basename="session")
urlpatterns = [
    path("users/me", views.MeView.as_view(), name="me"),
    path("auth/csrf", views.CsrfView.as_view(), name="csrf"),
    path("auth/sign-in", views.SignInView.as_view(), name="sign-in"),
    path("auth/sign-out", views.SignOutView.as_view(), name="sign-out"),
    *router.urls,
]
