"""The judging part of the conformance checker: pure, the time comes with each event."""
