"""The form of the page with the terms of service."""

from django import forms

from lib.forms import PageForm


class TermsForm(PageForm):
    """The form with the page to show after the terms are accepted.

    The view replaces addresses on other sites, so every value is valid.
    """

    redirect_url = forms.Field(required=False)
