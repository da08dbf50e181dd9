"""The look-ups behind the tools: functions of a session, decoded arguments and the time, which only read."""
