"""URL patterns of the model gateway, below ``/api/llm/v1/``.

The routes follow OpenAI's API, so our OpenAPI document does not contain them.
"""

from django.urls import path

from billing.gateway import views

urlpatterns = [
    path("chat/completions", views.chat_completions, name="llm-chat-completions"),
    path("models", views.models, name="llm-models"),
]
