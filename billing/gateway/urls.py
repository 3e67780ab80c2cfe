"""The gateway's URLs under ``/api/llm/v1/``. They follow OpenAI's API and are not part of our OpenAPI document."""

from django.urls import path

from billing.gateway import views

urlpatterns = [
    path("chat/completions", views.chat_completions, name="llm-chat-completions"),
    path("models", views.models, name="llm-models"),
]
