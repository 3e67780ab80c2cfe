"""Admin pages of identity providers, linked accounts, browser sessions and accepted terms."""

from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import pluralize

from accounts.admin.services import ServiceAdmin
from accounts.models import Identity, IdentityProvider, TermsAcceptance, UserSession
from accounts.oidc import providers
from accounts.services import claimed_roles, identity_providers, sessions
from lib.admin import ModelForm, ReadOnlyAdmin, StorableJSON


class ProviderForm(ModelForm):
    """The admin form for an identity provider. The client secret can be replaced but is never shown."""

    new_client_secret = forms.CharField(
        required=False,
        strip=True,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text="Leave empty to keep the stored secret.",
    )

    issuer = forms.URLField(
        max_length=400,
        assume_scheme="https",
        help_text="The exact value of the iss claim in the provider's tokens.",
    )

    class Meta:
        model = IdentityProvider
        field_classes: ClassVar = {"bearer_clients": StorableJSON, "claim_rules": StorableJSON}
        fields = (
            *("slug", "name", "kind", "issuer", "client_id", "scopes", "is_enabled"),
            *(
                "creates_users",
                "requires_verified_email",
                "trusts_email",
                "audience",
                "bearer_clients",
                "claim_rules",
            ),
        )

    def clean_claim_rules(self) -> Any:
        # A single rule may be entered without a list.
        rules = self.cleaned_data["claim_rules"] or []
        try:
            for rule in rules if isinstance(rules, list) else [rules]:
                claimed_roles.check_rule(rule)
        except claimed_roles.BadRule as error:
            raise ValidationError(str(error)) from error
        return rules if isinstance(rules, list) else [rules]

    def clean_bearer_clients(self) -> Any:
        client_ids = self.cleaned_data["bearer_clients"] or []
        if not isinstance(client_ids, list) or not all(isinstance(id_, str) for id_ in client_ids):
            raise ValidationError('Enter a JSON list of client ids, such as ["my-client"].')
        return client_ids


@admin.register(IdentityProvider)
class IdentityProviderAdmin(ServiceAdmin):
    """Identity providers. A provider with linked accounts can be disabled but not deleted."""

    form = ProviderForm
    list_display = ("name", "slug", "kind", "issuer", "is_enabled", "is_preset")
    ordering = ("name",)
    actions = ("check_connection",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        is_used = obj is not None and obj.identities.exists()
        return not is_used and super().has_delete_permission(request, obj)

    def write(
        self, request: HttpRequest, row: Any, form: Any, *, is_change: bool
    ) -> IdentityProvider:
        secret = form.cleaned_data["new_client_secret"]
        return identity_providers.save_provider(provider=row, client_secret=secret)

    def erase(self, row: Any) -> None:
        identity_providers.delete_provider(provider=row)

    @admin.action(description="Check the connection", permissions=["change"])
    def check_connection(self, request: HttpRequest, rows: QuerySet[IdentityProvider]) -> None:
        providers.clear_caches()  # a cached discovery document would hide an outage
        for row in rows:
            try:
                providers.client_methods(row)  # reads the discovery document
                providers.get_metadata(row)
            except providers.ProviderUnavailable as error:
                identity_providers.record_check(provider=row, error=str(error))
                self.message_user(
                    request,
                    f"The check of {row} failed: {error}. Check the issuer, and whether this server can reach it.",
                    messages.ERROR,
                )
            else:
                identity_providers.record_check(provider=row)
                self.message_user(
                    request, f"{row} responded with a valid configuration.", messages.SUCCESS
                )


@admin.register(Identity)
class IdentityAdmin(ReadOnlyAdmin):
    """Links between users and their accounts at identity providers."""

    list_display = ("user", "provider", "sub", "email", "last_seen_at")
    list_select_related = ("user", "provider")
    search_fields = ("sub", "email", "user__email")
    ordering = ("-last_seen_at",)


@admin.register(UserSession)
class UserSessionAdmin(ReadOnlyAdmin):
    """Browser sessions of users, open and ended."""

    list_display = ("user", "address", "user_agent", "last_seen_at", "ended_at", "end_reason")
    list_select_related = ("user",)
    search_fields = ("user__email",)
    ordering = ("-last_seen_at",)
    actions = ("end",)

    def has_end_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.change_usersession")

    @admin.action(description="Sign out and close open sockets", permissions=["end"])
    def end(self, request: HttpRequest, rows: QuerySet[UserSession]) -> None:
        ended = sum(sessions.end_session(session=row, reason="ended by staff") for row in rows)
        self.message_user(request, f"Ended {ended} session{pluralize(ended)}.", messages.SUCCESS)


@admin.register(TermsAcceptance)
class TermsAcceptanceAdmin(ReadOnlyAdmin):
    """Records of the terms of service: the user, the accepted version and the time."""

    list_display = ("user", "version", "accepted_at", "address")
    list_select_related = ("user",)
    ordering = ("-accepted_at",)
