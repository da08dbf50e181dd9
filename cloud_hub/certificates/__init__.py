"""The hub's CA: issuing, files, enrolment of devices, and the registry of certificates and revocations."""
