"""Services for settings: read the effective settings of a user in an organization, and change them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import FilteredRelation, Model, Q

from accounts.models import Organization, OrganizationSettings, User, UserSettings
from accounts.permissions import granted_permissions
from accounts.services import audit
from accounts.settings.fields import FIELDS, Field, get_field
from lib import crypto
from lib.compiled import Compiled, Rows, caller
from lib.masks import MASK
from lib.problems import Problem

DEFAULT, ORGANIZATION, USER, ENFORCED = "default", "organization", "user", "enforced"
SETTERS = (DEFAULT, ORGANIZATION, USER, ENFORCED)
"""The possible values of ``EffectiveSettings.set_by``."""


class StaleSettings(Problem):
    """The settings have changed since the client read them."""

    status = 409
    code = "stale-settings"
    sentence = "The settings have changed since you read them. Read them again, then change them."


class EnforcedSetting(Problem):
    """The organization enforces the setting, so a user cannot change it."""

    status = 403
    code = "enforced-setting"


@dataclass(frozen=True)
class EffectiveSettings:
    """The settings that apply to one user in one organization, with secrets in plain text.

    ``set_by`` is a dict from setting to ``default``, ``organization``, ``user`` or ``enforced``. The organization sets
    an enforced setting, and the user cannot change it. ``version`` counts the changes of the user's own settings; 0
    means that the user has not changed any.
    """

    values: dict[str, Any]
    set_by: dict[str, str]
    version: int

    def masked_values(self) -> dict[str, Any]:
        """Return the values for responses, with secrets replaced by a mask."""
        return {name: FIELDS[name].mask(value) for name, value in self.values.items()}


def effective_settings(*, user_id: UUID, organization_id: UUID) -> EffectiveSettings:
    """Return the settings that apply to a user in an organization. Runs two database queries.

    The result contains secrets in plain text, so responses must use ``EffectiveSettings.masked_values``.
    """
    own = UserSettings.objects.filter(user_id=user_id, organization_id=organization_id).first()
    shared = OrganizationSettings.objects.filter(organization_id=organization_id).first()
    return merge_settings(own, shared)


def shared_settings(*, organization_id: UUID) -> EffectiveSettings:
    """Return the settings of an organization without any user's own: its values and the defaults."""
    return merge_settings(
        None, OrganizationSettings.objects.filter(organization_id=organization_id).first()
    )


def effective_value(*, user_id: UUID, organization_id: UUID, name: str) -> tuple[Any, bool]:
    """Return the effective value of one setting that is not secret, and whether the organization enforces it.

    Decrypts nothing, so a secret that cannot be decrypted does not matter. Runs at most two database queries.
    """
    default = FIELDS[name].default
    shared = OrganizationSettings.objects.filter(organization_id=organization_id)
    shared_values, enforced = shared.values_list("values", "enforced").first() or ({}, [])
    if name in enforced:
        return shared_values.get(name, default), True
    own = UserSettings.objects.filter(user_id=user_id, organization_id=organization_id)
    own_values = own.values_list("values", flat=True).first() or {}
    return own_values.get(name, shared_values.get(name, default)), False


def effective_settings_for_key(
    user: Any, organization_id: UUID | None, permission: str
) -> EffectiveSettings | None:
    """Return the effective settings for a request whose API key belongs to the organization.

    Return None if the request has no such key or lacks the permission. The caller then uses ``effective_settings`` and
    the usual permission checks, which raise the right exception. Runs one database query.
    """
    if organization_id is None or organization_id != user.bound_organization_id:
        return None
    for role, *rows in _BY_KEY.rows(user=user.pk, organization=organization_id):
        if permission in granted_permissions(role, user):
            return merge_settings(*_ROWS.instances(rows))
    return None


def with_own_settings(organizations: Any, user_id: UUID) -> Any:
    """Add the relation ``own`` to a queryset of organizations: the user's settings row in each organization.

    ``values_list`` can then select columns of the relations in ``SETTINGS_RELATIONS``.
    """
    own = FilteredRelation("usersettings", condition=Q(usersettings__user_id=user_id))
    return organizations.annotate(own=own)


SETTINGS_RELATIONS: dict[str, type[Model]] = {
    "own": UserSettings,
    "organizationsettings": OrganizationSettings,
}
"""The relations from an organization to the two rows that ``merge_settings`` takes."""
_ROWS = Rows(**SETTINGS_RELATIONS)


def _by_key(user: UUID, organization: UUID) -> Any:
    # ``caller`` is a stand-in for the user, so that ``visible_to`` stays the only definition of the access rule.
    rows = Organization.objects.visible_to(caller(user, organization)).filter(suspended_at=None)
    return with_own_settings(rows, user).values_list("memberships__role", *_ROWS.columns)


_BY_KEY = Compiled(_by_key, user=UUID(int=1), organization=UUID(int=2))


def describe_unreadable(*, user_id: UUID | None, organization_id: UUID) -> list[str]:
    """Return a sentence for each settings row whose secrets cannot be decrypted: the user's and the organization's.

    Runs two database queries.
    """
    rows: list[UserSettings | OrganizationSettings] = [
        *UserSettings.objects.filter(user=user_id, organization_id=organization_id),
        *OrganizationSettings.objects.filter(organization_id=organization_id),
    ]
    sentences = []
    for row in rows:
        try:
            row.read_secrets()
        except crypto.Undecryptable as error:
            sentences.append(error.detail)
    return sentences


def organization_settings(*, organization_id: UUID) -> OrganizationSettings:
    """Return an organization's settings row. If there is no row, return an unsaved row with version 0."""
    row = OrganizationSettings.objects.filter(organization_id=organization_id).first()
    return row or OrganizationSettings(organization_id=organization_id, version=0)


def masked_values(row: OrganizationSettings) -> dict[str, Any]:
    """Return a dict from setting to value, with secrets replaced by a mask. None stands for no value."""
    stored = _stored_values(row)
    return {name: field.mask(stored.get(name)) for name, field in FIELDS.items()}


@transaction.atomic
def change_settings(
    *,
    user: User,
    organization: Organization,
    values: Mapping[str, Any],
    version: int | None = None,
    skip_effective: bool = False,
) -> EffectiveSettings:
    """Change some of a user's settings, all or none; return the effective settings. Safe to repeat.

    - ``values``: a dict from setting to new value. None removes the user's value. A secret whose value is its own mask
      stays unchanged; any other mask raises ``InvalidSetting``.
    - ``version``: the version that the client has read; None skips this check.
    - ``skip_effective``: whether to skip values that already apply. Forms that send all settings need this: a value
      that is stored for the user no longer follows the organization's value.

    Raise ``StaleSettings``, ``EnforcedSetting``, ``InvalidSetting`` or ``UnknownSetting``.
    """
    # Without the lock, two concurrent first changes would both insert a row.
    Organization.objects.select_for_update().get(pk=organization.pk)
    own = UserSettings.objects.filter(user=user, organization=organization).first()
    shared = OrganizationSettings.objects.filter(organization=organization).first()
    before = merge_settings(own, shared)
    if version is not None and version != before.version:
        raise StaleSettings(version=before.version)
    own = own or UserSettings(user=user, organization=organization, version=0)
    stored = _stored_values(own)
    new_values: dict[str, Any] = {}
    for name, value in values.items():
        field = get_field(name)
        if _is_unchanged(
            field, value, before.values[name], before.set_by[name], skip_effective=skip_effective
        ):
            continue
        if before.set_by[name] == ENFORCED:
            # Clients may send back all settings that they have read: an unchanged enforced value is not an error.
            if value == before.values[name]:
                continue
            raise EnforcedSetting(
                f"The organization sets {name} for all members, so you cannot change it. "
                "Ask an owner or admin of the organization.",
                field=name,
            )
        cleaned = None if value is None else field.clean(value, stored=stored.get(name))
        # Cleaning may change a value into the effective value, for example by removing white space.
        if skip_effective and cleaned == before.values[name]:
            continue
        new_values[name] = cleaned
    if _write(own, stored, new_values):
        _record("settings.changed", own, new_values, organization)
    # Version 0 is a row that was never saved.
    return merge_settings(own if own.version else None, shared)


@transaction.atomic
def change_organization_settings(
    *,
    organization: Organization,
    values: Mapping[str, Any],
    enforced: Iterable[str] | None = None,
    version: int | None = None,
) -> OrganizationSettings:
    """Change the settings of an organization and the list of enforced settings. Safe to repeat.

    A value of None removes the organization's value. ``enforced`` replaces the list of enforced settings; None
    leaves it unchanged. If an enforced setting has no value, its default applies. Raise
    ``StaleSettings``, ``InvalidSetting`` or ``UnknownSetting``.
    """
    Organization.objects.select_for_update().get(pk=organization.pk)
    row = organization_settings(organization_id=organization.pk)
    if version is not None and version != row.version:
        raise StaleSettings(version=row.version)
    stored = _stored_values(row)
    new_values: dict[str, Any] = {}
    for name, value in values.items():
        field = get_field(name)
        # A client that sends the mask of a secret does not change the secret.
        if field.is_secret and value is not None and value == field.mask(stored.get(name)):
            continue
        new_values[name] = None if value is None else field.clean(value, stored=stored.get(name))
    names = row.enforced if enforced is None else sorted({get_field(n).name for n in enforced})
    enforced_changed, before, row.enforced = names != row.enforced, row.enforced, names
    if _write(row, stored, new_values, enforced_changed=enforced_changed):
        _record(
            "organization_settings.changed",
            row,
            new_values,
            organization,
            enforced=(before, names),
        )
    return row


def _is_unchanged(
    field: Field, value: Any, effective: Any, set_by: str, *, skip_effective: bool
) -> bool:
    """Return whether a value changes nothing: the client only sends back a value that it has read."""
    if value is None:
        return skip_effective and effective is None
    if field.is_secret:
        return bool(value == field.mask(effective))
    # In Python, True == 1, so compare the types too.
    is_equal = value == effective and type(value) is type(effective)
    return is_equal and (skip_effective or set_by == USER)


def _stored_values(row: UserSettings | OrganizationSettings) -> dict[str, Any]:
    return {**row.values, **row.secrets}


def merge_settings(
    own: UserSettings | None, shared: OrganizationSettings | None
) -> EffectiveSettings:
    """Merge the settings rows of a user and of an organization into effective settings. A missing row is None.

    The first of these values applies: the organization's value if it is enforced, the user's value, the
    organization's value, the default.
    """
    own_values = _stored_values(own) if own else {}
    shared_values = _stored_values(shared) if shared else {}
    enforced = set(shared.enforced) if shared else set()
    values, set_by = {}, {}
    for name, field in FIELDS.items():
        if name in enforced:
            values[name], set_by[name] = shared_values.get(name, field.default), ENFORCED
        elif name in own_values:
            values[name], set_by[name] = own_values[name], USER
        elif name in shared_values:
            values[name], set_by[name] = shared_values[name], ORGANIZATION
        else:
            values[name], set_by[name] = field.default, DEFAULT
    return EffectiveSettings(values, set_by, own.version if own else 0)


def _write(
    row: UserSettings | OrganizationSettings,
    stored: dict[str, Any],
    new_values: dict[str, Any],
    *,
    enforced_changed: bool = False,
) -> bool:
    """Write the new values into a row and save it; return False without saving if nothing changed."""
    changed = {name: value for name, value in new_values.items() if value != stored.get(name)}
    if not changed and not enforced_changed:
        return False
    result = {name: value for name, value in (stored | changed).items() if value is not None}
    row.values = {name: value for name, value in result.items() if not FIELDS[name].is_secret}
    # Encrypt again only if a secret changed.
    if any(FIELDS[name].is_secret for name in changed):
        row.secrets = {name: value for name, value in result.items() if FIELDS[name].is_secret}
    row.version += 1
    row.save()
    return True


def _record(
    action: str,
    row: UserSettings | OrganizationSettings,
    new_values: dict[str, Any],
    organization: Organization,
    **more: tuple[list[str], list[str]],
) -> None:
    """Record a change in the audit log. For a secret, record only whether it is set.

    ``more`` contains an old and a new value by name, for changes that are not values of settings.
    """
    after = {
        name: (value is not None) if FIELDS[name].is_secret else value
        for name, value in new_values.items()
    }
    before: dict[str, Any] = {}
    for name, (old, new) in more.items():
        if old != new:
            before[name], after[name] = old, new
    audit.record(
        action=action,
        organization_id=organization.pk,
        subject=row,
        subject_name="settings",
        before=before,
        after=after | {"version": row.version},
    )


__all__ = [
    "MASK",
    "SETTERS",
    "SETTINGS_RELATIONS",
    "EffectiveSettings",
    "EnforcedSetting",
    "StaleSettings",
    "change_organization_settings",
    "change_settings",
    "effective_settings",
    "effective_settings_for_key",
    "effective_value",
    "masked_values",
    "merge_settings",
    "organization_settings",
    "with_own_settings",
]
