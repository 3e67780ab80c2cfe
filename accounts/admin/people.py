"""The admin pages of accounts: people, organizations, keys and setup links."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode

from accounts import limits, services
from accounts.models import ApiKey, Membership, Organization, SetupLink, User
from accounts.services import organizations as organization_verbs
from accounts.sign_in import second_step
from lib.admin import InlineFormSet, ModelAdmin, ModelForm, ReadOnlyAdmin, TabularInline
from lib.problems import Problem


class SignInForm(AdminAuthenticationForm):
    """Sign-in to the admin desk by e-mail address, counted together with the other sign-ins."""

    request: HttpRequest  # always passed by the admin site

    def clean(self) -> dict[str, Any]:
        try:
            limits.check_sign_in(self.request, self.cleaned_data.get("username", ""))
        except limits.TooManyAttempts as error:
            raise ValidationError(error.detail) from error
        cleaned: dict[str, Any] = super().clean()
        if second_step.is_needed(self.get_user()):
            page = f"{reverse('sign-in')}?{urlencode({'next': reverse('admin:index')})}"
            raise ValidationError(
                format_html(
                    'This account has a second factor: <a href="{}">sign in here</a>.', page
                )
            )
        return cleaned


admin.site.site_header = admin.site.site_title = "Agent Server"
admin.site.index_title = "Admin desk"
admin.site.login_form = SignInForm


class NewUserForm(ModelForm):
    """A new user; without a password somebody can sign in only by other means."""

    password = forms.CharField(
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )

    class Meta:
        model = User
        fields = ("email", "name", "is_staff")

    def clean_password(self) -> str | None:
        if password := self.cleaned_data["password"]:
            validate_password(password, self.instance)
        return password or None


@admin.register(User)
class UserAdmin(ModelAdmin):
    """People. They are suspended, not deleted: what they did keeps its author.

    Only a superuser hands out staff and superuser rights, and only a superuser touches a superuser.
    """

    list_display = ("email", "name", "is_active", "is_staff", "is_superuser", "created_at")
    list_filter = ("is_active", "is_staff", "is_superuser")
    search_fields = ("email", "name")
    ordering = ("-created_at",)
    fields = (
        "email",
        "name",
        "is_active",
        "is_staff",
        "is_superuser",
        "groups",
        "user_permissions",
        "last_login",
        "created_at",
    )
    filter_horizontal = ("groups", "user_permissions")
    readonly_fields = ("is_active", "last_login", "created_at")
    actions = ("suspend", "activate")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        may = super().has_change_permission(request, obj)
        return may and (obj is None or not obj.is_superuser or request.user.is_superuser)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        rights = ("is_staff", "is_superuser", "groups", "user_permissions")
        return self.readonly_fields if request.user.is_superuser else self.readonly_fields + rights

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is not None:
            return self.fields
        return ("email", "name", "password") + (("is_staff",) if request.user.is_superuser else ())

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any
    ) -> Any:
        if obj is None:
            kwargs["form"] = NewUserForm
        return super().get_form(request, obj, change=change, **kwargs)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            return
        made = services.create_user(
            email=obj.email,
            name=obj.name,
            password=form.cleaned_data["password"],
            is_staff=obj.is_staff,
        )
        obj.pk = made.pk
        obj.refresh_from_db()

    @admin.action(description="Suspend: no sign-in, no key works", permissions=["change"])
    def suspend(self, request: HttpRequest, users: QuerySet[User]) -> None:
        self._each(request, users, services.suspend_user, "Suspended")

    @admin.action(description="Let in again", permissions=["change"])
    def activate(self, request: HttpRequest, users: QuerySet[User]) -> None:
        self._each(request, users, services.activate_user, "Let in again")

    def _each(self, request: HttpRequest, users: QuerySet[User], verb: Any, done: str) -> None:
        for user in users:
            if not self.has_change_permission(request, user):
                sentence = f"{user}: only a superuser may do this to a superuser."
                self.message_user(request, sentence, messages.ERROR)
                continue
            try:
                verb(user=user)
            except Problem as error:
                self.message_user(request, f"{user}: {error.detail}", messages.ERROR)
            else:
                self.log_change(request, user, done)
                self.message_user(request, f"{done}: {user}.", messages.SUCCESS)


class MembershipFormSet(InlineFormSet):
    """Keeps an owner in every organization, and a row to one user."""

    def clean(self) -> None:
        super().clean()
        for form in self.initial_forms:
            if "user" in form.changed_data and not form.cleaned_data.get("DELETE"):
                raise ValidationError("Remove this member and add the other one.")
        kept = [form.cleaned_data for form in self.forms if form.is_valid()]
        roles = {row.get("role") for row in kept if row and not row.get("DELETE")}
        if not any(self.errors) and Membership.Role.OWNER not in roles:
            raise ValidationError("An organization needs an owner.")


class MembershipInline(TabularInline):
    """Who belongs to an organization, and as what."""

    model = Membership
    formset = MembershipFormSet
    autocomplete_fields = ("user",)
    fields = ("user", "role", "created_at")
    readonly_fields = ("created_at",)
    extra = 0


def _not_owner(row: Membership) -> bool:
    return row.role != Membership.Role.OWNER


@admin.register(Organization)
class OrganizationAdmin(ModelAdmin):
    """Tenants. They are suspended, not deleted."""

    list_display = ("name", "personal_of", "suspended_at", "created_at")
    list_filter = (("suspended_at", admin.EmptyFieldListFilter),)
    list_select_related = ("personal_of",)
    search_fields = ("name", "personal_of__email")
    ordering = ("-created_at",)
    fields = ("name", "personal_of", "suspended_at", "created_at")
    readonly_fields = ("personal_of", "suspended_at", "created_at")
    inlines = (MembershipInline,)
    actions = ("suspend", "activate")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """Members by the verbs, so that keys, open windows and the audit log follow.

        Whoever becomes an owner comes first: handing over to another in one form leaves an owner at each step.
        """
        formset.save(commit=False)  # fills the lists below, from which the history is told too
        organization = form.instance
        changed = sorted((row for row, _ in formset.changed_objects), key=_not_owner)
        for row in formset.new_objects:
            added = {"user": row.user, "role": row.role}
            self._try(request, organization_verbs.add_member, organization=organization, **added)
        verb: Any = organization_verbs.change_role
        for row in changed:
            wanted = {"by": None, "user_id": row.user_id, "role": row.role}
            self._try(request, verb, organization=organization, **wanted)
        verb = organization_verbs.remove_member
        for row in formset.deleted_objects:
            self._try(request, verb, organization=organization, by=None, user_id=row.user_id)

    def _try(self, request: HttpRequest, verb: Any, **wanted: Any) -> None:
        try:
            verb(**wanted)
        except Problem as refusal:
            self.message_user(request, refusal.detail, messages.ERROR)

    @admin.action(description="Suspend: nobody works here, no key works", permissions=["change"])
    def suspend(self, request: HttpRequest, organizations: QuerySet[Organization]) -> None:
        for organization in organizations:
            organization_verbs.suspend_organization(organization=organization)
            self.log_change(request, organization, "Suspended")
        self.message_user(request, f"Suspended {len(organizations)}.", messages.SUCCESS)

    @admin.action(description="Open again", permissions=["change"])
    def activate(self, request: HttpRequest, organizations: QuerySet[Organization]) -> None:
        for organization in organizations:
            organization_verbs.activate_organization(organization=organization)
            self.log_change(request, organization, "Opened again")
        self.message_user(request, f"Opened {len(organizations)} again.", messages.SUCCESS)


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyAdmin):
    """Keys by their prefix; the secret is nowhere."""

    list_display = (
        "prefix",
        "name",
        "user",
        "organization",
        "expires_at",
        "revoked_at",
        "last_used_at",
    )
    list_select_related = ("user", "organization")
    list_filter = (("revoked_at", admin.EmptyFieldListFilter),)
    search_fields = ("key_id", "name", "user__email")
    ordering = ("-created_at",)
    fields = (
        "prefix",
        "name",
        "user",
        "organization",
        "scopes",
        "created_at",
        "expires_at",
        "revoked_at",
        "last_used_at",
    )
    actions = ("revoke",)

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.change_apikey")

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke(self, request: HttpRequest, keys: QuerySet[ApiKey]) -> None:
        for key in keys:
            services.revoke_api_key(key=key)
            self.log_change(request, key, "Revoked")
        self.message_user(request, f"Revoked {len(keys)}.", messages.SUCCESS)


@admin.register(SetupLink)
class SetupLinkAdmin(ReadOnlyAdmin):
    """Setup links that were made, and who used them."""

    list_display = ("created_at", "email", "expires_at", "used_at", "used_by")
    list_select_related = ("used_by",)
    ordering = ("-created_at",)
    fields = ("email", "created_at", "expires_at", "used_at", "used_by")
