"""The steps of the setup checklist. Each step recognizes by itself whether it is done.

The exception is the copy of the keys and the database on another system, which this server cannot see.
"""

from dataclasses import dataclass, field

from django.conf import settings
from django.urls import reverse

from accounts.models import Invitation, Organization, SetupMark, User
from accounts.roles import ROLE_PERMISSIONS
from accounts.services import provider_tokens, second_factor, setup_marks
from billing import services as billing
from integrations import registry
from openhands_site.doctor.findings import FAILED, OK, Check
from openhands_site.doctor.latest import Report
from openhands_site.doctor.security import is_local
from openhands_site.setup import lines

NAMES = {"github": "GitHub", "gitlab": "GitLab", "bitbucket": "Bitbucket"}
"""The Git hosts as their makers write them."""
FOUND_BY = {"model": "model-servers"}
"""By the id of a step: the check that may offer something for the step, such as model servers on this machine."""
NO_WARNINGS = ("https", "administrator")
"""Checks that have a step of their own, or that cannot fail while an administrator looks at the page."""


@dataclass(frozen=True)
class Line:
    """A line to copy, and what it does."""

    text: str
    purpose: str


@dataclass(frozen=True)
class Warned:
    """A failed check or a warning of ``doctor``, with the line for a terminal or the page that its remedy needs."""

    check: Check
    line: str
    page: str


@dataclass(frozen=True)
class Step:
    """One step. ``reason`` is one sentence, shown while the step is not done.

    ``page`` is the path of the page where the step is done, and ``action`` the text of the link. ``lines`` are for work
    in a terminal, and ``hint`` is something that the server has found. An optional step does not keep the checklist on
    the home page. ``is_checking`` means that the result is not known yet.
    """

    id: str
    title: str
    reason: str
    is_done: bool
    page: str = ""
    action: str = ""
    hint: str = ""
    lines: tuple[Line, ...] = ()
    warnings: tuple[Warned, ...] = ()
    is_optional: bool = False
    is_checking: bool = False
    confirmed: SetupMark | None = None

    @property
    def is_confirmed_by_hand(self) -> bool:
        return self.id == "backup"


@dataclass(frozen=True)
class Checklist:
    """All steps for one administrator."""

    steps: tuple[Step, ...]
    is_hidden: bool = False
    report: Report | None = field(default=None, repr=False)

    @property
    def needed(self) -> list[Step]:
        return [step for step in self.steps if not step.is_optional]

    @property
    def done(self) -> int:
        return sum(step.is_done for step in self.needed)

    @property
    def is_complete(self) -> bool:
        return self.done == len(self.needed)

    @property
    def is_only_checking(self) -> bool:
        """Whether everything that is known is done, and the checks of ``doctor`` have not run yet."""
        return all(step.is_done or step.is_checking for step in self.needed)


def build_checklist(user: User, report: Report | None) -> Checklist:
    """Return the checklist for an administrator. Without a report, the step of ``doctor`` is being checked.

    Runs at most eight short database queries and starts no program.
    """
    marks = setup_marks.marks_for(user)
    return Checklist(
        _steps(user, marks, report), is_hidden=setup_marks.is_hidden(marks, user), report=report
    )


def find_open_checklist(user: User, report: Report | None) -> Checklist | None:
    """Return the checklist if the home page shows it: the user has not hidden it, and a needed step is open.

    Runs one database query if the user has hidden the checklist.
    """
    marks = setup_marks.marks_for(user)
    if setup_marks.is_hidden(marks, user):
        return None
    checklist = Checklist(_steps(user, marks, report), report=report)
    return None if checklist.is_complete else checklist


def _steps(user: User, marks: list[SetupMark], report: Report | None) -> tuple[Step, ...]:
    others = User.objects.filter(is_active=True, is_service_account=False).exclude(pk=user.pk)
    serves_others = others.exists() or Invitation.objects.open().exists()
    steps = [_model(user, report), _git_host(user), _team(user, is_done=serves_others)]
    # The identity provider of an account without a password asks for the second factor.
    if user.has_usable_password():
        steps.append(_second_factor(user))
    steps.append(_backup(marks))
    if serves_others or not is_local(settings.PUBLIC_URL):
        steps += [_address(), _mail()]
    steps.append(_doctor(report))
    return tuple(steps)


def _model(user: User, report: Report | None) -> Step:
    offer = report.find(FOUND_BY["model"]) if report else None
    return Step(
        id="model",
        title="Connect a model",
        reason="Until then, conversations use the demo model, which can do only a few built-in tasks.",
        is_done=billing.has_own_or_lent_model(user_id=user.pk),
        page=reverse("settings-model"),
        action="Connect",
        hint=offer.detail if offer and offer.state == OK and offer.finding.remedy else "",
    )


def _git_host(user: User) -> Step:
    names = [NAMES.get(provider, provider) for provider in sorted(registry.PROVIDERS)]
    return Step(
        id="git-host",
        title=f"Connect {' or '.join(names)}",
        reason="Agents can then clone your private repositories and open pull requests in your name.",
        is_done=provider_tokens.has_provider_token(user_id=user.pk, providers=registry.PROVIDERS),
        page=reverse("git-hosts"),
        action="Connect",
    )


def _team(user: User, *, is_done: bool) -> Step:
    roles = [role for role, names in ROLE_PERMISSIONS.items() if "invitations.edit" in names]
    teams = Organization.objects.filter(
        personal_of=None,
        suspended_at=None,
        memberships__user=user,
        memberships__role__in=roles,
    )
    team = None if is_done else teams.order_by("created_at").first()
    page = reverse("organization", args=[team.pk]) if team else reverse("organizations")
    return Step(
        id="team",
        title="Invite your team",
        reason="Members see what the team shares, each with an account and a role of their own.",
        is_done=is_done,
        page=f"{page}#invite" if team else page,
        action="Invite" if team else "Create an organization",
    )


def _second_factor(user: User) -> Step:
    return Step(
        id="second-factor",
        title="Turn on your second factor",
        reason="Your account may do everything here. With a second factor, its password is not enough to sign in.",
        is_done=second_factor.has_second_factor(user=user),
        page=reverse("second-factor"),
        action="Turn on",
    )


def _backup(marks: list[SetupMark]) -> Step:
    copy = setup_marks.find_key_copy(marks)
    keys = lines.copy_keys()
    hint = (
        ""
        if keys
        else "The keys SECRET_KEY, ENCRYPTION_KEYS and TOKEN_PEPPERS come from the server's environment."
    )
    return Step(
        id="backup",
        title="Keep a copy of the keys and the database elsewhere",
        reason="Without its keys, even a restored database contains no secret and no API key that can be used.",
        is_done=copy is not None,
        hint=hint,
        lines=(
            *([Line(keys, "Copy the keys")] if keys else []),
            Line(lines.dump_database(), "Write the database to a file, for example every night"),
        ),
        confirmed=copy,
    )


def _address() -> Step:
    url = settings.PUBLIC_URL
    if is_local(url):
        title = "Give the server an address that others can open"
        reason = f"Links to this server start with {url}, which only this machine can open."
    else:
        title = "Serve the site over HTTPS"
        reason = f"Browsers send passwords to {url} without encryption."
    return Step(
        id="address",
        title=title,
        reason=reason,
        is_done=settings.IS_HTTPS,
        lines=(
            Line(
                "PUBLIC_URL=https://agents.example.com",
                f"Put a proxy with TLS in front (docs/operators.md, “Behind a proxy”), add its address to "
                f"{lines.settings_file()}, and restart",
            ),
        ),
    )


def _mail() -> Step:
    return Step(
        id="mail",
        title="Set a mail server",
        reason="Without it, you pass invitation links on yourself, and nobody can verify a new e-mail address.",
        is_done=bool(settings.EMAIL_HOST),
        lines=(
            Line(
                "EMAIL_HOST=smtp.example.com\nEMAIL_HOST_USER=agents\nEMAIL_HOST_PASSWORD=",
                f"Add your values to {lines.settings_file()}, and restart",
            ),
        ),
        is_optional=True,
    )


def _doctor(report: Report | None) -> Step:
    warned = tuple(
        Warned(
            check,
            line=lines.manage(check.finding.command) if check.finding.command else "",
            page=reverse(check.finding.page) if check.finding.page else "",
        )
        for check in (report.checks if report else ())
        if check.needs_action and check.id not in NO_WARNINGS
    )
    return Step(
        id="doctor",
        title=_count(warned) or "Check the server",
        reason=f"Found when the server checked itself: {', '.join(one.check.name for one in warned)}.",
        is_done=report is not None and not warned,
        warnings=warned,
        is_checking=report is None,
    )


def _count(warned: tuple[Warned, ...]) -> str:
    """Return words such as ``Fix 1 problem, look at 2 warnings``, or "" if there is nothing."""
    problems = sum(one.check.state == FAILED for one in warned)
    parts = [
        f"{verb} {number} {noun}{'' if number == 1 else 's'}"
        for verb, number, noun in (
            ("fix", problems, "problem"),
            ("look at", len(warned) - problems, "warning"),
        )
        if number
    ]
    return ", ".join(parts).capitalize()
