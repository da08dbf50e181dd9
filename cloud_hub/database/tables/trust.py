"""Who may do what, and who did."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index
from sqlmodel import Field, SQLModel

from cloud_hub.database.tables.columns import JSONS, SERIAL, TEXT_JSON, big_integer, json_list


class AuditRow(SQLModel, table=True):
    """Who did what, when, with which result; each row's hash covers the one before. Triggers refuse to change it."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("audit_by_device", "device", "seq"), Index("audit_by_time", "t_us"),
        Index("audit_by_kind", "device", "kind", "seq"),
    )  # fmt: skip
    seq: int | None = Field(default=None, sa_column=Column(SERIAL, primary_key=True))
    t_us: int = big_integer()
    actor: str
    kind: str
    subject: str
    device: str = ""
    trace_id: str = ""
    detail: dict[str, Any] = Field(default_factory=dict, sa_column=Column(TEXT_JSON, nullable=False))
    hash: str


class Token(SQLModel, table=True):
    """A REST token; only its SHA-256 is stored. `role` is one role or more, with spaces between.

    `scope` None is the whole hub, else the asset paths below which it sees devices.
    """

    __tablename__ = "tokens"
    id: str = Field(primary_key=True)
    name: str
    role: str
    digest: str = Field(unique=True)
    created_us: int = big_integer()
    revoked_us: int | None = big_integer(default=None)
    expires_us: int | None = big_integer(default=None)
    scope: list[str] | None = Field(default=None, sa_column=Column(JSONS))


class LockoutRow(SQLModel, table=True):
    """An address that guessed tokens and is not listened to until then."""

    __tablename__ = "lockouts"

    address: str = Field(primary_key=True)
    until_us: int = big_integer()


class Identity(SQLModel, table=True):
    """How this hub stands to a device's identity. `proof_us` is the time in its newest proof: none counts twice."""

    __tablename__ = "identities"
    device: str = Field(primary_key=True)
    revoked_us: int | None = big_integer(default=None)
    reason: str = ""
    proof_us: int = big_integer(default=0)


class Claim(SQLModel, table=True):
    """A one-time claim by which a device enrols; only its SHA-256 is stored.

    `key_digest` is the key that used it: a device whose answer got lost may ask again, another one may not.
    `wrong_us` are the times of the latest wrong tries.
    """

    __tablename__ = "claims"
    device: str = Field(primary_key=True)
    digest: str
    actor: str
    created_us: int = big_integer()
    expires_us: int = big_integer()
    used_us: int | None = big_integer(default=None)
    key_digest: str = ""
    wrong_us: list[int] = json_list()


class CertificateRow(SQLModel, table=True):
    """A client certificate that this hub's CA issued; `serial` is hexadecimal."""

    __tablename__ = "certificates"
    serial: str = Field(primary_key=True)
    device: str = Field(index=True)
    cn: str
    issued_us: int = big_integer()
    expires_us: int = big_integer()
    revoked_us: int | None = big_integer(default=None)
