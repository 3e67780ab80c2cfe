"""The verbs of settings: what is in force for a user in an organization, who set it, and how it is changed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import FilteredRelation, Model, Q

from accounts.models import Organization, OrganizationSettings, User, UserSettings
from accounts.permissions import granted_by
from accounts.services import audit
from accounts.settings.fields import FIELDS, Field, field_of
from lib.compiled import Compiled, Rows, caller
from lib.masks import MASK
from lib.problems import Problem

DEFAULT, ORGANIZATION, USER, ENFORCED = "default", "organization", "user", "enforced"
SETTERS = (DEFAULT, ORGANIZATION, USER, ENFORCED)


class StaleSettings(Problem):
    """The settings changed since the writer read them."""

    status = 409
    code = "stale-settings"
    sentence = "The settings were changed meanwhile. Read them again, then change them."


class EnforcedSetting(Problem):
    """A setting that the organization keeps to itself."""

    status = 403
    code = "enforced-setting"


@dataclass(frozen=True)
class Effective:
    """What is in force for one user in one organization: plain values, and who set each.

    ``set_by`` is ``default``, ``organization``, ``user`` or ``enforced`` (the organization, and the user may
    not change it). ``version`` counts the changes of the user's own row; 0 while there is none.
    """

    values: dict[str, Any]
    set_by: dict[str, str]
    version: int

    def shown(self) -> dict[str, Any]:
        """The values with masks in place of secrets."""
        return {name: FIELDS[name].shown(value) for name, value in self.values.items()}


def effective_settings(*, user_id: UUID, organization_id: UUID) -> Effective:
    """What is in force, plain secrets included; two queries. For outside, ``Effective.shown``."""
    own = UserSettings.objects.filter(user_id=user_id, organization_id=organization_id).first()
    shared = OrganizationSettings.objects.filter(organization_id=organization_id).first()
    return merged(own, shared)


def settings_by_key(user: Any, organization_id: UUID | None, permission: str) -> Effective | None:
    """Return the settings in force for a caller with a key of this organization and the permission; one query.

    None for all other callers: ``effective_settings`` and the permission checks serve them.
    """
    if organization_id is None or organization_id != user.bound_organization_id:
        return None
    for role, *rows in _BY_KEY.rows(user=user.pk, organization=organization_id):
        if permission in granted_by(role, user):
            return merged(*_ROWS.instances(rows))
    return None


def beside_own(organizations: Any, user_id: UUID) -> Any:
    """Organizations from which the relations of ``ROWS`` lead to their settings and to the user's there."""
    own = FilteredRelation("usersettings", condition=Q(usersettings__user_id=user_id))
    return organizations.annotate(own=own)


ROWS: dict[str, type[Model]] = {"own": UserSettings, "organizationsettings": OrganizationSettings}
_ROWS = Rows(**ROWS)


def _by_key(user: UUID, organization: UUID) -> Any:
    found = Organization.objects.visible_to(caller(user, organization)).filter(suspended_at=None)
    return beside_own(found, user).values_list("memberships__role", *_ROWS.columns)


_BY_KEY = Compiled(_by_key, user=UUID(int=1), organization=UUID(int=2))


def organization_settings(*, organization_id: UUID) -> OrganizationSettings:
    """An organization's row; unsaved with version 0 where nothing was set."""
    found = OrganizationSettings.objects.filter(organization_id=organization_id).first()
    return found or OrganizationSettings(organization_id=organization_id, version=0)


def shown_values(row: OrganizationSettings) -> dict[str, Any]:
    """What a row sets, with masks in place of secrets; None where it sets nothing."""
    held = _held(row)
    return {name: field.shown(held.get(name)) for name, field in FIELDS.items()}


@transaction.atomic
def change_settings(
    *,
    user: User,
    organization: Organization,
    values: Mapping[str, Any],
    version: int | None = None,
    only_news: bool = False,
) -> Effective:
    """Change some of a user's settings, all or none; gives what is in force then. Safe to repeat.

    None takes the user's choice back. A secret given as the mask that it is shown as stays as it is; any
    other mask is refused. ``version`` is the one that the writer has seen. ``only_news`` passes over values
    that are in force anyway, as forms send them that always send everything; otherwise they become the
    user's choice. Raises ``StaleSettings``, ``EnforcedSetting``, ``InvalidSetting``, ``UnknownSetting``.
    """
    Organization.objects.select_for_update().get(pk=organization.pk)  # two first changes at once
    own = UserSettings.objects.filter(user=user, organization=organization).first()
    shared = OrganizationSettings.objects.filter(organization=organization).first()
    before = merged(own, shared)
    if version is not None and version != before.version:
        raise StaleSettings(version=before.version)
    own = own or UserSettings(user=user, organization=organization, version=0)
    held = _held(own)
    wanted: dict[str, Any] = {}
    for name, value in values.items():
        field = field_of(name)
        if _is_echo(field, value, before.values[name], before.set_by[name], only_news=only_news):
            continue
        if before.set_by[name] == ENFORCED:
            if value == before.values[name]:
                continue
            raise EnforcedSetting(f"{name} is set by the organization.", field=name)
        checked = None if value is None else field.checked(value, stored=held.get(name))
        if only_news and checked == before.values[name]:
            continue
        wanted[name] = checked
    if _write(own, held, wanted):
        _note("settings.changed", own, wanted, organization)
    return merged(own if own.version else None, shared)


@transaction.atomic
def change_organization_settings(
    *,
    organization: Organization,
    values: Mapping[str, Any],
    enforced: Iterable[str] | None = None,
    version: int | None = None,
) -> OrganizationSettings:
    """Change what an organization sets for its members, and which of it they may not change. Safe to repeat.

    None takes a value back; ``enforced`` None leaves the list as it is. A field without a value is enforced
    at its default. Raises what ``change_settings`` does, but ``EnforcedSetting``.
    """
    Organization.objects.select_for_update().get(pk=organization.pk)
    row = organization_settings(organization_id=organization.pk)
    if version is not None and version != row.version:
        raise StaleSettings(version=row.version)
    held = _held(row)
    wanted: dict[str, Any] = {}
    for name, value in values.items():
        field = field_of(name)
        if field.is_secret and value is not None and value == field.shown(held.get(name)):
            continue
        wanted[name] = None if value is None else field.checked(value, stored=held.get(name))
    names = row.enforced if enforced is None else sorted({field_of(n).name for n in enforced})
    is_other, before, row.enforced = names != row.enforced, row.enforced, names
    if _write(row, held, wanted, is_other=is_other):
        _note("organization_settings.changed", row, wanted, organization, enforced=(before, names))
    return row


def _is_echo(field: Field, value: Any, in_force: Any, set_by: str, *, only_news: bool) -> bool:
    """Whether a value only says back what was shown."""
    if value is None:
        return only_news and in_force is None
    if field.is_secret:
        return bool(value == field.shown(in_force))
    return value == in_force and type(value) is type(in_force) and (only_news or set_by == USER)


def _held(row: UserSettings | OrganizationSettings) -> dict[str, Any]:
    return {**row.values, **row.secrets}


def merged(own: UserSettings | None, shared: OrganizationSettings | None) -> Effective:
    """What two rows, or their absence, come to."""
    mine = _held(own) if own else {}
    theirs = _held(shared) if shared else {}
    enforced = set(shared.enforced) if shared else set()
    values, set_by = {}, {}
    for name, field in FIELDS.items():
        if name in enforced:
            values[name], set_by[name] = theirs.get(name, field.default), ENFORCED
        elif name in mine:
            values[name], set_by[name] = mine[name], USER
        elif name in theirs:
            values[name], set_by[name] = theirs[name], ORGANIZATION
        else:
            values[name], set_by[name] = field.default, DEFAULT
    return Effective(values, set_by, own.version if own else 0)


def _write(
    row: UserSettings | OrganizationSettings,
    held: dict[str, Any],
    wanted: dict[str, Any],
    *,
    is_other: bool = False,
) -> bool:
    """Put the changes into a row and save it, unless nothing is other than it was."""
    news = {name: value for name, value in wanted.items() if value != held.get(name)}
    if not news and not is_other:
        return False
    whole = {name: value for name, value in (held | news).items() if value is not None}
    row.values = {name: value for name, value in whole.items() if not FIELDS[name].is_secret}
    if any(FIELDS[name].is_secret for name in news):
        row.secrets = {name: value for name, value in whole.items() if FIELDS[name].is_secret}
    row.version += 1
    row.save()
    return True


def _note(
    action: str,
    row: UserSettings | OrganizationSettings,
    wanted: dict[str, Any],
    organization: Organization,
    **more: tuple[list[str], list[str]],
) -> None:
    told = {
        name: (value is not None) if FIELDS[name].is_secret else value
        for name, value in wanted.items()
    }
    before: dict[str, Any] = {}
    for name, (old, new) in more.items():
        if old != new:
            before[name], told[name] = old, new
    audit.record(
        action=action,
        organization_id=organization.pk,
        subject=row,
        subject_name="settings",
        before=before,
        after=told | {"version": row.version},
    )


__all__ = [
    "MASK",
    "ROWS",
    "SETTERS",
    "Effective",
    "EnforcedSetting",
    "StaleSettings",
    "beside_own",
    "change_organization_settings",
    "change_settings",
    "effective_settings",
    "merged",
    "organization_settings",
    "settings_by_key",
    "shown_values",
]
