"""Who called what, on which collection, with which outcome: one line of JSON for each call."""
