"""Admin pages of users, organizations, API keys and setup links, and the admin site's sign-in form."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import pluralize
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode

from accounts import limits, services
from accounts.admin.services import ServiceAdmin
from accounts.models import ApiKey, Membership, Organization, SetupLink, User
from accounts.services import organizations as organization_services
from accounts.services.memberships import ownerless_without
from accounts.sign_in import second_step
from accounts.sign_in.authentication import count_sign_in
from lib.admin import InlineFormSet, ModelForm, ReadOnlyAdmin, TabularInline
from lib.problems import Problem


class SignInForm(AdminAuthenticationForm):
    """The sign-in form of the admin site. Attempts count towards the same rate limit as other sign-ins."""

    request: HttpRequest  # Django allows None; the admin site always passes a request

    def clean(self) -> dict[str, Any]:
        try:
            count_sign_in(self.request, self.cleaned_data.get("username", ""))
        except limits.TooManyAttempts as error:
            raise ValidationError(error.detail) from error
        cleaned: dict[str, Any] = super().clean()
        if second_step.is_needed(self.get_user()):
            page = f"{reverse('sign-in')}?{urlencode({'next': reverse('admin:index')})}"
            raise ValidationError(
                format_html(
                    'This account uses a second factor, which this form cannot check. <a href="{}">Sign in '
                    "on the sign-in page</a> instead.",
                    page,
                )
            )
        return cleaned


admin.site.site_header = admin.site.site_title = "Agent Server"
admin.site.index_title = "Admin site"
admin.site.login_form = SignInForm


class NewUserForm(ModelForm):
    """The admin form that creates a user. A user without a password can sign in only with an identity provider."""

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
class UserAdmin(ServiceAdmin):
    """Users. They can be suspended but not deleted, so that conversations and audit entries still name them.

    Only superusers can grant staff or superuser rights, and only superusers can change a superuser.
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
        is_allowed = super().has_change_permission(request, obj)
        return is_allowed and (obj is None or not obj.is_superuser or request.user.is_superuser)

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

    def write(self, request: HttpRequest, row: User, form: Any, *, is_change: bool) -> User:
        if is_change:
            values = {name: form.cleaned_data[name] for name in form.changed_data}
            return services.change_user(user=row, values=values)
        # The service creates the row together with the personal organization and the audit entry.
        return services.create_user(
            email=row.email,
            name=row.name,
            password=form.cleaned_data["password"],
            is_staff=row.is_staff,
        )

    @admin.action(description="Suspend users and disable their API keys", permissions=["change"])
    def suspend(self, request: HttpRequest, users: QuerySet[User]) -> None:
        self._apply_to_each(request, users, services.suspend_user, "Suspended")
        for user in users:
            for organization in ownerless_without(user):
                sentence = (
                    f"The organization “{organization}” now has no active owner, because {user} was the last one. "
                    "Make another member an owner on its page."
                )
                self.message_user(request, sentence, messages.WARNING)

    @admin.action(description="Reactivate suspended users", permissions=["change"])
    def activate(self, request: HttpRequest, users: QuerySet[User]) -> None:
        self._apply_to_each(request, users, services.activate_user, "Reactivated")

    def _apply_to_each(
        self, request: HttpRequest, users: QuerySet[User], service: Any, result: str
    ) -> None:
        for user in users:
            if not self.has_change_permission(request, user):
                sentence = f"{user} was not changed: only a superuser can change a superuser."
                self.message_user(request, sentence, messages.ERROR)
                continue
            try:
                service(user=user)
            except Problem as error:
                message = f"{user} was not changed. {error.detail}"
                self.message_user(request, message, messages.ERROR)
            else:
                self.log_change(request, user, result)
                self.message_user(request, f"{result}: {user}.", messages.SUCCESS)


class MembershipFormSet(InlineFormSet):
    """The rows for an organization's members. The user of a row cannot change, and one row must be an owner."""

    def clean(self) -> None:
        super().clean()
        for form in self.initial_forms:
            if "user" in form.changed_data and not form.cleaned_data.get("DELETE"):
                raise ValidationError(
                    "The user of a membership cannot be changed. Remove this member and add the other "
                    "user as a new member."
                )
        rows = [form.cleaned_data for form in self.forms if form.is_valid()]
        roles = {row.get("role") for row in rows if row and not row.get("DELETE")}
        if not any(self.errors) and Membership.Role.OWNER not in roles:
            raise ValidationError("An organization needs at least one owner.")


class MembershipInline(TabularInline):
    """The members of an organization and their roles."""

    model = Membership
    formset = MembershipFormSet
    autocomplete_fields = ("user",)
    fields = ("user", "role", "created_at")
    readonly_fields = ("created_at",)
    extra = 0


def _is_not_owner(row: Membership) -> bool:
    return row.role != Membership.Role.OWNER


@admin.register(Organization)
class OrganizationAdmin(ServiceAdmin):
    """Organizations, the tenants of the server. They can be suspended but not deleted."""

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

    def write(self, request: HttpRequest, row: Any, form: Any, *, is_change: bool) -> Organization:
        if is_change:
            return organization_services.rename_organization(organization=row, name=row.name)
        return organization_services.create_empty_organization(name=row.name)

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """Save members through the services, which revoke keys, close sockets and write the audit log."""
        # With commit=False, this only fills new_objects, changed_objects and deleted_objects. Django's history of the
        # object reads these lists too.
        formset.save(commit=False)
        organization = form.instance
        # Make new owners before the old owner loses the role, so that one form can replace the owner: the services
        # refuse a step that leaves no owner.
        changed = sorted((row for row, _ in formset.changed_objects), key=_is_not_owner)
        for row in formset.new_objects:
            member = {"user": row.user, "role": row.role}
            self._try(
                request, organization_services.add_member, organization=organization, **member
            )
        service: Any = organization_services.change_role
        for row in changed:
            change_of_role = {"by": None, "user_id": row.user_id, "role": row.role}
            self._try(request, service, organization=organization, **change_of_role)
        service = organization_services.remove_member
        for row in formset.deleted_objects:
            self._try(request, service, organization=organization, by=None, user_id=row.user_id)

    def _try(self, request: HttpRequest, service: Any, **arguments: Any) -> None:
        """Call a service. If the service raises a ``Problem``, show its sentence."""
        try:
            service(**arguments)
        except Problem as refusal:
            self.message_user(request, refusal.detail, messages.ERROR)

    @admin.action(
        description="Suspend organizations and disable their API keys", permissions=["change"]
    )
    def suspend(self, request: HttpRequest, organizations: QuerySet[Organization]) -> None:
        for organization in organizations:
            organization_services.suspend_organization(organization=organization)
            self.log_change(request, organization, "Suspended")
        message = f"Suspended {len(organizations)} organization{pluralize(organizations)}."
        self.message_user(request, message, messages.SUCCESS)

    @admin.action(description="Reactivate suspended organizations", permissions=["change"])
    def activate(self, request: HttpRequest, organizations: QuerySet[Organization]) -> None:
        for organization in organizations:
            organization_services.activate_organization(organization=organization)
            self.log_change(request, organization, "Reactivated")
        message = f"Reactivated {len(organizations)} organization{pluralize(organizations)}."
        self.message_user(request, message, messages.SUCCESS)


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnlyAdmin):
    """API keys, shown by their prefix. The server stores only a hash of the secret part."""

    list_display = (
        "prefix",
        "name",
        "user",
        "organization",
        "expires_at",
        "revoked_at",
        "last_used_at",
        "parent",
    )
    list_select_related = ("user", "organization", "parent")
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
        "parent",
        "created_with_it",
    )
    actions = ("revoke", "revoke_with_children")

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.change_apikey")

    @admin.display(description="Usable keys created with this key")
    def created_with_it(self, key: ApiKey) -> str:
        return ", ".join(str(child) for child in services.child_keys(keys=[key])) or "none"

    @admin.action(description="Revoke API keys", permissions=["revoke"])
    def revoke(self, request: HttpRequest, keys: QuerySet[ApiKey]) -> None:
        self._revoke(request, list(keys))
        if left := services.child_keys(keys=keys):
            sentence = (
                f"These keys were created with the revoked keys and still work: "
                f"{', '.join(map(str, left))}. To revoke them too, select the same keys again and "
                "choose “Revoke API keys and the keys created with them”."
            )
            self.message_user(request, sentence, messages.WARNING)

    @admin.action(
        description="Revoke API keys and the keys created with them", permissions=["revoke"]
    )
    def revoke_with_children(self, request: HttpRequest, keys: QuerySet[ApiKey]) -> None:
        self._revoke(request, [*keys, *services.child_keys(keys=keys)])

    def _revoke(self, request: HttpRequest, keys: list[ApiKey]) -> None:
        for key in keys:
            services.revoke_api_key(key=key)
            self.log_change(request, key, "Revoked")
        self.message_user(
            request, f"Revoked {len(keys)} API key{pluralize(keys)}.", messages.SUCCESS
        )


@admin.register(SetupLink)
class SetupLinkAdmin(ReadOnlyAdmin):
    """Setup links, and the administrators that were created with them."""

    list_display = ("created_at", "email", "expires_at", "used_at", "used_by")
    list_select_related = ("used_by",)
    ordering = ("-created_at",)
    fields = ("email", "created_at", "expires_at", "used_at", "used_by")
