"""A second factor for tests: enrolling a user, and the codes of the user's app."""

from django.utils import timezone

from accounts.models import SecondFactor
from accounts.services import second_factor

PASSWORD = "correct horse battery"


def current_code(user, *, steps=0):
    """Return the code that the user's app shows ``steps`` periods of 30 seconds from now."""
    now = int(timezone.now().timestamp()) // 30
    return second_factor.code_at(SecondFactor.objects.get(user=user).secret, now + steps)


def enrol(user):
    """Confirm a second factor and return its recovery codes. The current code is unused afterwards."""
    second_factor.begin_second_factor(user=user, password=PASSWORD)
    codes = second_factor.confirm_second_factor(user=user, code=current_code(user))
    SecondFactor.objects.filter(user=user).update(last_used_step=0)
    return codes
