"""The gateway's addresses, under ``/api/llm/v1/``; not part of our OpenAPI: they follow OpenAI's."""

from django.urls import path

from billing.gateway import views

urlpatterns = [
    path("chat/completions", views.chat_completions, name="llm-chat-completions"),
    path("models", views.models, name="llm-models"),
]
