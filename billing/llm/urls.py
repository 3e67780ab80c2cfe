"""The gateway's addresses, under ``/api/llm/v1/``; not part of our OpenAPI: they follow OpenAI's."""

from django.urls import path

from billing.llm import gateway

urlpatterns = [
    path("chat/completions", gateway.chat_completions, name="llm-chat-completions"),
    path("models", gateway.models, name="llm-models"),
]
