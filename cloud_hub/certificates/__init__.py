"""The hub's small CA: `authority` issues, `folder` keeps its files, `enrolment` decides who gets what."""
