"""The form of the page of terms."""

from django import forms

from lib.forms import PageForm


class TermsForm(PageForm):
    """The page to go on to; the view confines it to this site, so no value makes the form invalid."""

    redirect_url = forms.Field(required=False)
