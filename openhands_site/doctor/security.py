"""Checks of the settings that protect the server: keys, stored secrets, encryption in transit, accounts."""

import os
from urllib.parse import urlsplit

from lib import env
from openhands_site.doctor.findings import Finding, failed, ok, warning

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""The hosts of ``PUBLIC_URL`` that only this machine can open."""


def valid_settings() -> Finding:
    """Load the settings, which may not have been loaded before. The checks after this one need them."""
    import django
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured

    os.environ.setdefault("LOG_FORMAT", "text")
    # Without a pool, a check fails at once instead of waiting for the pool, which logs every attempt.
    os.environ["DATABASE_POOL_SIZE"] = "0"
    try:
        django.setup()
    except ImproperlyConfigured as error:
        return failed(str(error), env.explain_missing())
    return ok(f"valid; the data folder is {settings.DATA_DIR}")


def keys() -> Finding:
    """Check that the keys of the server are random and different."""
    from django.conf import settings

    secret = settings.SECRET_KEY
    if len(secret) < 32 or len(set(secret)) < 8 or secret.startswith("django-insecure"):
        return failed(
            "SECRET_KEY is weak.", "Set it to 50 random characters: `openssl rand -base64 48`."
        )
    for name in ("ENCRYPTION_KEYS", "TOKEN_PEPPERS"):
        for key_id, key in getattr(settings, name).items():
            if len(set(key)) < 12:
                return failed(
                    f"the key {key_id} of {name} is not random.",
                    "Replace it with the output of `openssl rand -hex 32`.",
                )
    both = set(settings.ENCRYPTION_KEYS.values()) & set(settings.TOKEN_PEPPERS.values())
    if both:
        return warning("ENCRYPTION_KEYS and TOKEN_PEPPERS share a key.", "Use different keys.")
    return ok("long and random")


def stored_secrets() -> Finding:
    """Decrypt every stored secret."""
    from collections import Counter

    from lib import crypto, resealing

    lost: Counter[crypto.SealedKind] = Counter()
    total = 0
    for column in resealing.columns():
        used, unreadable = resealing.audit(column)
        total += used.total()
        for bound_to in unreadable:
            kind = crypto.describe_sealed(bound_to)
            lost[kind or crypto.SealedKind(f"a value of {column}", "Enter it again.")] += 1
    if not lost:
        return ok(f"{total} encrypted values can be decrypted")
    parts = [
        f"{kind.name} ({count}): {kind.remedy}" for kind, count in sorted(lost.items(), key=str)
    ]
    return failed(
        f"{lost.total()} of {total} encrypted values cannot be decrypted.",
        f"If ENCRYPTION_KEYS lost a key, add it again. Otherwise replace the values: {' '.join(parts)} "
        "`manage.py audit_encrypted_fields` lists the rows.",
        command="audit_encrypted_fields",
    )


def debug() -> Finding:
    """Check that error pages do not show source code."""
    from django.conf import settings

    if settings.DEBUG:
        return warning(
            "DEBUG is on, so error pages show settings and source code.",
            "Turn it off if others can reach this server.",
        )
    return ok("off")


def https() -> Finding:
    """Check that browsers on other machines reach the server over TLS."""
    from django.conf import settings

    if settings.IS_HTTPS or is_local(settings.PUBLIC_URL):
        return ok(settings.PUBLIC_URL)
    return warning(
        f"browsers send passwords to {settings.PUBLIC_URL} without encryption.",
        "Put a proxy with TLS in front.",
    )


def is_local(url: str) -> bool:
    """Return whether only this machine can open a URL."""
    return urlsplit(url).hostname in LOOPBACK


def private_hosts() -> Finding:
    """Check that users cannot make the server call private addresses."""
    from django.conf import settings

    from lib import url_guard

    if sentence := url_guard.explain_single_user():
        return warning(sentence)
    if settings.UPSTREAM_ALLOW_PRIVATE == url_guard.SINGLE_USER:
        return ok("allowed, because not more than one person has an account")
    if settings.UPSTREAM_ALLOW_PRIVATE == url_guard.ALLOWED:
        return ok("only model servers on this machine that an administrator has allowed")
    return ok("allowed for every user" if settings.UPSTREAM_ALLOW_PRIVATE else "not allowed")


def administrator() -> Finding:
    """Check that somebody can open the admin site."""
    from accounts import services as accounts

    if accounts.has_administrator():
        return ok("an administrator exists")
    return warning(
        "no administrator exists.", "`make run` prints a link to create the first administrator."
    )
