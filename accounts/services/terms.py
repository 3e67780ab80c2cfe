"""Services for the terms of service. Users accept each version once."""

from django.conf import settings

from accounts.models import TermsAcceptance, User


def has_accepted_terms(*, user: User) -> bool:
    """Return whether the user has accepted the current terms. Without ``TERMS_VERSION``, return True."""
    version = settings.TERMS_VERSION
    return not version or user.accepted_terms.filter(version=version).exists()


def accept_terms(*, user: User, address: str | None) -> None:
    """Store that the user accepts the current terms. Safe to repeat: the first acceptance stays."""
    if version := settings.TERMS_VERSION:
        TermsAcceptance.objects.get_or_create(
            user=user, version=version, defaults={"address": address}
        )
