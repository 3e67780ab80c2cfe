"""V0, OpenHands' older protocol: REST routes without a version in the path, and Socket.IO."""
