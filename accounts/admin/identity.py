"""The admin pages of identity: providers, what people are called there, sessions, accepted terms."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.models import Identity, IdentityProvider, TermsAcceptance, UserSession
from accounts.oidc import providers
from accounts.services import claimed_roles, sessions
from lib.admin import ModelAdmin, ModelForm, ReadOnlyAdmin


class ProviderForm(ModelForm):
    """A provider; its secret is written and never shown."""

    new_client_secret = forms.CharField(
        required=False,
        strip=True,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text="Leave empty to keep the one there is.",
    )

    issuer = forms.URLField(
        max_length=400, assume_scheme="https", help_text="Exactly as its tokens say it (iss)."
    )

    class Meta:
        model = IdentityProvider
        fields = (
            *("slug", "name", "kind", "issuer", "client_id", "scopes", "is_enabled"),
            *(
                "creates_users",
                "requires_verified_email",
                "audience",
                "bearer_clients",
                "claim_rules",
            ),
        )

    def clean_claim_rules(self) -> Any:
        rules = self.cleaned_data["claim_rules"] or []
        try:
            for rule in rules if isinstance(rules, list) else [rules]:
                claimed_roles.check_rule(rule)
        except claimed_roles.BadRule as error:
            raise ValidationError(str(error)) from error
        return rules if isinstance(rules, list) else [rules]

    def clean_bearer_clients(self) -> Any:
        listed = self.cleaned_data["bearer_clients"] or []
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise ValidationError("A list of client ids.")
        return listed


@admin.register(IdentityProvider)
class IdentityProviderAdmin(ModelAdmin):
    """Ways to sign in. One that people came by is switched off, not deleted."""

    form = ProviderForm
    list_display = ("name", "slug", "kind", "issuer", "is_enabled", "is_preset")
    ordering = ("name",)
    actions = ("ask",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_used = obj is not None and obj.identities.exists()
        return not is_used and super().has_delete_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: Any) -> None:
        if secret := form.cleaned_data["new_client_secret"]:
            obj.client_secret = secret
        super().save_model(request, obj, form, change)

    @admin.action(description="Ask whether it answers", permissions=["change"])
    def ask(self, request: HttpRequest, rows: QuerySet[IdentityProvider]) -> None:
        providers.forget()
        for row in rows:
            try:
                providers.metadata(row)
            except providers.ProviderUnavailable as error:
                self.message_user(request, f"{row}: {error}.", messages.ERROR)
            else:
                self.message_user(request, f"{row} answers.", messages.SUCCESS)


@admin.register(Identity)
class IdentityAdmin(ReadOnlyAdmin):
    """Who is called what at which provider."""

    list_display = ("user", "provider", "sub", "email", "last_seen_at")
    list_select_related = ("user", "provider")
    search_fields = ("sub", "email", "user__email")
    ordering = ("-last_seen_at",)


@admin.register(UserSession)
class UserSessionAdmin(ReadOnlyAdmin):
    """Where people are signed in."""

    list_display = ("user", "address", "user_agent", "last_seen_at", "ended_at", "end_reason")
    list_select_related = ("user",)
    search_fields = ("user__email",)
    ordering = ("-last_seen_at",)
    actions = ("end",)

    def has_end_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.change_usersession")

    @admin.action(description="End now, with its sockets", permissions=["end"])
    def end(self, request: HttpRequest, rows: QuerySet[UserSession]) -> None:
        ended = sum(sessions.end_session(session=row, reason="ended by staff") for row in rows)
        self.message_user(request, f"Ended {ended}.", messages.SUCCESS)


@admin.register(TermsAcceptance)
class TermsAcceptanceAdmin(ReadOnlyAdmin):
    """Who accepted which terms."""

    list_display = ("user", "version", "accepted_at", "address")
    list_select_related = ("user",)
    ordering = ("-accepted_at",)
