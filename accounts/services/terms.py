"""Services for the terms of service. Users accept each version once."""

from django.conf import settings
from django.db import transaction

from accounts.models import TermsAcceptance, User
from accounts.services import audit


def has_accepted_terms(*, user: User) -> bool:
    """Return whether the user has accepted the current terms. Without ``TERMS_VERSION``, return True."""
    version = settings.TERMS_VERSION
    return not version or user.accepted_terms.filter(version=version).exists()


@transaction.atomic
def accept_terms(*, user: User, address: str | None) -> None:
    """Store that the user accepts the current terms. Safe to repeat: the first acceptance stays."""
    if version := settings.TERMS_VERSION:
        _, is_new = TermsAcceptance.objects.get_or_create(
            user=user, version=version, defaults={"address": address}
        )
        if is_new:
            audit.record(action="terms.accepted", subject=user, after={"version": version})
