"""Read the event log: the statements, the records, and events in words."""
