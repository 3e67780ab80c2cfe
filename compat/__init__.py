"""The OpenHands protocols: translate a request, call a service or queryset, translate the response."""
