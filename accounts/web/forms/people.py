"""Forms of a person's own account: signing in, setting up, the password, the second factor, devices."""

from django import forms

from lib.forms import TEXT_CODES, IdField, OptionField, PageForm, TextField

WRONG_PAIR = "This e-mail address and password do not belong together."
_WRONG_PAIR = dict.fromkeys(TEXT_CODES, WRONG_PAIR)
EMAIL_LENGTH = 254
PASSWORD_LENGTH = 1_000
CODE_LENGTH = 40


class NextForm(PageForm):
    """The page to go on to; the view confines it to this site, so no value makes the form invalid."""

    next = forms.Field(required=False)


class SignInForm(NextForm):
    """E-mail address and password. Every error is the same sentence, which says nothing about the account."""

    email = TextField(label="E-mail", max_length=EMAIL_LENGTH, error_messages=_WRONG_PAIR)
    password = TextField(
        label="Password", max_length=PASSWORD_LENGTH, strip=False, error_messages=_WRONG_PAIR
    )


class SetupForm(PageForm):
    """The account of the first administrator."""

    refused_status = 400
    email = TextField(label="E-mail", max_length=EMAIL_LENGTH)
    name = TextField(label="Name", max_length=120, required=False)
    password = TextField(label="Password", max_length=PASSWORD_LENGTH, strip=False)


class PasswordForm(PageForm):
    """A new password, with the present one."""

    current = TextField(label="Present password", max_length=PASSWORD_LENGTH, strip=False)
    new = TextField(label="New password", max_length=PASSWORD_LENGTH, strip=False)


class SecondStepForm(NextForm):
    """The code of a second factor. An empty code is a wrong one, which is counted and noted."""

    code = TextField(label="Code", max_length=CODE_LENGTH, required=False, strip=False)


class SecondFactorForm(PageForm):
    """One step of setting up or removing a second factor. The services refuse empty passwords and codes."""

    act = OptionField(choices=[("begin", "Set up"), ("confirm", "Turn on"), ("remove", "Turn off")])
    password = TextField(
        label="Your password, once more", max_length=PASSWORD_LENGTH, required=False, strip=False
    )
    code = TextField(label="Code", max_length=CODE_LENGTH, required=False, strip=False)


class UserCodeForm(PageForm):
    """The code that a device shows, typed or from the address."""

    user_code = TextField(label="The code that your device shows", max_length=40)


class DeviceForm(UserCodeForm):
    """The answer to a device; without a decision the page asks for one."""

    decision = OptionField(choices=[("approve", "Approve"), ("deny", "Deny")], required=False)
    organization = IdField(required=False)
